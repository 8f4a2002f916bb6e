"""Size, operations, latency and memory of what ships."""
