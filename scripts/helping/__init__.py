"""Parts of scripts/did_it_help.py: did a dataset help a model?"""
