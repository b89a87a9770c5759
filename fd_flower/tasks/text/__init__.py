"""Texts with classes: samples are texts, and each model reads them by its own tokenizer."""
