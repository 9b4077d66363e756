"""One HTML page about a work folder, for a person to look at, and the same numbers as JSON.

In: what `prepare` to `submit` have left so far. Out: `index.html`, `report.json`, `relabel.csv` in `work/report/`.
Read `make.py` first; `scores`, `data`, `training`, `mistakes`, `blend` and `test_set` gather the sections of the page.
"""
