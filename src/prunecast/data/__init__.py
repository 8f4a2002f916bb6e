"""Series into windows: catalogue, files, calendar features, generated data."""
