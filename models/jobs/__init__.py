"""Which folds of which runs are to be done, and the executors that do them: this process, or a Ray cluster.

In: settings and what is done already. Out: events of every job. Read `plan.py` first, then `local.py` and `ray.py`.
"""
