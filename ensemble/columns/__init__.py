"""A member made of columns beside the images: place, camera, time, size.

In: a CSV, or what the manifest knows. Out: one more member in `work/ensemble/members/`. Read `table_member.py` first.
"""
