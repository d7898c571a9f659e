"""Parts of explain.py: what it looks up, what it compares, the stages, the page and its words."""
