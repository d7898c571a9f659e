"""Parts of prepare_for_finetuning.py: what comes in, the formats, tokens, the card."""
