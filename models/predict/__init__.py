"""Log-probabilities of every view, and the files that keep them.

In: a network and rows. Out: `oof.npz` and `test.npz`. Read `model.py` first, then `again.py`.
"""
