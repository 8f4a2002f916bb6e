"""The C engine: a forecaster as portable C99, faster the more zeros its weights have."""
