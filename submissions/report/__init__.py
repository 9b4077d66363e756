"""One HTML page about a work folder, for a person to look at, and the same numbers as JSON.

In: what `prepare` to `submit` have left so far. Out: `index.html`, `report.json`, `relabel.csv` in `work/report/`.
Read `make.py` first; each file of `sections/` gathers one part of the page, which the template of that name shows.
"""
