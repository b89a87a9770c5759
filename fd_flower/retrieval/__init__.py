"""Retrieval: questions and documents in the place of pictures and classes."""
