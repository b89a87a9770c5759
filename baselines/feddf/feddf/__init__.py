"""feddf: A Flower Baseline."""
