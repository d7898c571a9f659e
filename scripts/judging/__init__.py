"""Parts of judge.py: what is asked and how replies are read; planted faults and people's sheets."""
