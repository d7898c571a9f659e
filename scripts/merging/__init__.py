"""Parts of merge_runs.py: what is read, the order, the three engines, and what is written."""
