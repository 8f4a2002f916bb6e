"""The only training loop, and the scoring of forecasts."""
