"""Parts of self_instruct.py: its parser, limits, ledger, pace, estimate, budget, several tasks in
one request, batches, --check."""
