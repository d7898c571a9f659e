"""Parts of self_instruct.py: limits, pace, estimate, several tasks in one request, --check."""
