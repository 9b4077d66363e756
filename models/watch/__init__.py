"""What people see of training: events, the table of all jobs, curves for TensorBoard and Weights & Biases.

In: the events that jobs yield. Out: lines, tables, files of curves. Read `events.py` first.
"""
