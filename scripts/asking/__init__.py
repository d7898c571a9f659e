"""Parts of self_instruct.py: its parser, limits, ledger, pace, estimate, several tasks in one
request, --check."""
