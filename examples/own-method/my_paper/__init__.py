"""A federated distillation method of our own, for FD-Flower."""
