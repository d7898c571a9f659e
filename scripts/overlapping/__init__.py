"""Parts of overlap.py: how files are read, the three tests, the record of a check, its words."""
