"""A grid of pipelines: planned as stages, run by workers, resumable."""
