"""From rows of the store to batches on the device: which images, which crops, which views.

In: rows and a seed. Out: tensors (B, 3, S, S). Read `sampling.py` first, then `augment.py` and `resample.py`.
"""
