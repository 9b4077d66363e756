"""What each file is: usable, left out or unreadable, and why; its copies; its row in the store.

In: a dataset and what decoding noticed. Out: `manifest.csv` and the tables of `prepare`. Read `prepare.py` first.
"""
