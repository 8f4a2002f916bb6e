"""Score, allocate, apply: what goes, and how it is taken out."""
