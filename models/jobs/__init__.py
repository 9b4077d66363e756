"""Which folds of which runs are to be done, and by whom: this process, or a Ray cluster.

In: settings and what is done already. Out: events of every job. Read `plan.py` first, then `local.py`.
"""
