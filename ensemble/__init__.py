"""One blend out of many members, weighted on out-of-fold predictions.

In: `oof.npz` of every member. Out: `blend.json`, and the blend of the test images. Read `blend/make_blend.py` first.
"""
