"""Tables of numbers and arrays, told into classes: how such sources are recognized."""
