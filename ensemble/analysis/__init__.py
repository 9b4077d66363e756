"""What the predictions say about members, views and single images.

In: the files of members. Out: tables. Read `compare.py` first.
"""
