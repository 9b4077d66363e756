"""What the predictions say about members, views and single images, and the tables that show it.

In: the files of members. Out: tables for the terminal, a CSV, a picture. Read `compare.py` first.
"""
