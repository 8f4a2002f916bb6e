"""The stages of a pipeline, one file each, and the order that they run in."""
