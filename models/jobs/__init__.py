"""Which folds of which runs are to be done, and where they are done: in this process, or on a Ray cluster.

In: settings and what is done already. Out: events of every job. Read `plan.py` first, then `local.py` and `ray.py`.
"""
