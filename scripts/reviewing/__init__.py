"""Parts of scripts/review.py: the sheet and its words."""
