"""From files to rows of one store of uint8 pixels: row i of it is row i of the manifest.

In: paths. Out: upright RGB pictures at one size, raw or as JPEGs, and what decoding noticed. Read `store.py` first.
"""
