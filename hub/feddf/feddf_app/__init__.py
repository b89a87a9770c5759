"""FedDF with FD-Flower."""
