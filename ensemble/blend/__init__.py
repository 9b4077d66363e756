"""Which blend is kept, what score it promises, and how it is applied to test images.

In: members. Out: `blend.json`. Read `make_blend.py` first.
"""
