"""FedMD with FD-Flower."""
