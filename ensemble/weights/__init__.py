"""How weights are found: the error as a function of the weights, and what searches it.

In: members' probabilities and true classes. Out: weights. Read
`reduction.py` and `objective.py` first, then `search.py`.
"""
