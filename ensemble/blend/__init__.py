"""Which blend is kept, what score to expect of it, and how it is applied to test images.

In: members. Out: `blend.json`. Read `make_blend.py` first.
"""
