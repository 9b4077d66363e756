"""Runs without training: logistic regression on a frozen backbone's features.

In: a backbone and its weights. Out: a run like any other, and heads for `train` to start from. Read `probe.py` first.
"""
