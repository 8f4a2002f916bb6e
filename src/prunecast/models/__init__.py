"""Forecasters: one file per model with its config; `api` holds the contracts, `disk` the format."""
