"""What every room stands on: errors, the work folder, locks, settings files, the terminal, CSV, metrics, intervals.

Nothing here knows images or networks. Read `errors.py` and `workspace.py` first.
"""
