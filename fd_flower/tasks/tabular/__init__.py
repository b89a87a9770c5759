"""Tables of numbers and arrays, classified: how such sources are recognized."""
