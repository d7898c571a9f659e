"""Parts of self_instruct.py: limits, ledger, pace, estimate, several tasks in one request,
batches, --check."""
