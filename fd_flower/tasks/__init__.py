"""Tasks: what a user brings, what is asked of models, how they are evaluated at it."""
