"""What makes samples or features out of nothing but noise and labels: small modules and pure functions on tensors."""
