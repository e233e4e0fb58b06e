"""Checkpoints: where a model's files are, and what they say about the model without loading it."""
