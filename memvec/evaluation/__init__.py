"""Evaluation: what vectors hold, and what memories are worth."""
