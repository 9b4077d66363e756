"""From the blend to a CSV that the organiser's checker accepts, and a report to look at.

In: `blend.json` and the members' test predictions. Out: checked CSVs and an HTML page. Read `write.py` first.
"""
