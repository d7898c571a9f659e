"""Parts of lesson/check.py."""
