"""The members of a blend: runs of this kit, or predictions of another tool, joined by image id.

In: folders of runs. Out: members with their probabilities in the order of the training images. Read `members.py` first.
"""
