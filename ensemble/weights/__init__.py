"""Weights of the members of a blend, found by their loss on out-of-fold predictions.

In: members' probabilities and true classes. Out: weights. Read `reduction.py` (the loss as a function of the weights)
first, then `simple.py` and `search.py`.
"""
