"""Who is in which fold: stratified by class, copies and groups kept together, stored once.

In: the manifest, and groups or folds of the user. Out: `folds.csv`. Read `assign.py` first.
"""
