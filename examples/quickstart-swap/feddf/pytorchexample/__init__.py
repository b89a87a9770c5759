"""A project in the manner of Flower's PyTorch quickstart."""
