"""Crossformer."""
