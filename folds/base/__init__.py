"""What every room stands on: errors, the work folder, locks, settings files, the terminal, CSV, metrics, intervals.

In: nothing of the competition. Out: what the other packages import. Read `errors.py` and `workspace.py` first.
"""
