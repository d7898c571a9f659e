"""The lesson: what a class reads and does."""
