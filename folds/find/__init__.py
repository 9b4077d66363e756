"""Which files there are, and what DATA says of them: ids, labels, which are to be predicted.

In: DATA and the settings that name its parts. Out: a `Dataset`, a list of files with labels. Read `dataset.py` first.
"""
