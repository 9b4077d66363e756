"""Who is in which fold: stratified by class, copies kept together, stored once.

In: the manifest. Out: `folds.csv`. Read `assign.py` first.
"""
