"""The ensemble without its work folder: one file that predicts new pictures offline.

In: a blend and its networks. Out: a pack, and a CSV of any folder of pictures. Read `make_pack.py` first, then
`infer.py`.
"""
