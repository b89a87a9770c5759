"""Retrieval: questions and documents instead of images and classes."""

from fd_flower.tasks.retrieval.answers import Passage, ask, prompt

__all__ = ["Passage", "ask", "prompt"]
