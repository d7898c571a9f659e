"""Parts of scripts/report.py: what it reads, counts and shows, and the page."""
