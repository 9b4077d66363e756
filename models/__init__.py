"""Networks and what they predict; the only room that imports torch.

In: the pixel store and the folds. Out: one folder per run and fold with the network, `oof.npz`, `test.npz` and
`done.json`. `runs.py` plans a run, `train/fold.py` trains one fold of it.
"""
