"""From files to rows of one memory-mapped store of uint8 pixels.

In: paths. Out: upright RGB pictures at one size, raw or as JPEGs, and what decoding noticed. Read `store.py` first.
"""
