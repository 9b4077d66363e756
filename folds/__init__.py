"""The competition's files: found, decoded into one pixel store, described in one manifest, split into folds.

In: DATA, a folder of images and CSVs. Out: `manifest.csv`, the pixel store, `folds.csv`. The packages follow the data:
`find`, `pixels`, `manifest`, `split`; `base` is what every room stands on. Read `manifest/prepare.py` first.
"""
