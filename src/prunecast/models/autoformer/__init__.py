"""Autoformer."""
