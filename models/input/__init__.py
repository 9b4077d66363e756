"""From rows of the store to batches on the device: which images, which crops, which views.

In: rows and a seed. Out: tensors (B, 3, S, S). Read `fold_data.py` first, then `resample.py`.
"""
