"""Training one network on all folds but one.

In: a job, the folds, the pixel store. Out: events, and a fold's folder whose `done.json` is written last. Read
`fold.py` first, then `trainer.py`.
"""
