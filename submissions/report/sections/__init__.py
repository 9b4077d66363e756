"""The six sections of the report: each function gathers one, and the template of that name shows it.

In: an opened work folder and out-of-fold predictions. Out: dicts of JSON's types; a chart in them is a dict of `plots`,
an image a dict of `WorkFolder.image`. Read `scores.py` first.
"""
