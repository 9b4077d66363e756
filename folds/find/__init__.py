"""Which files there are, and what DATA says of them: labels, ids, roles.

In: DATA and the settings that name its parts. Out: a `Dataset`, a list of files with labels. Read `dataset.py` first.
"""
