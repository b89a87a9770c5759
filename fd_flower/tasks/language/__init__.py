"""Causal language models: texts without classes, of which each token is predicted from those before it."""
