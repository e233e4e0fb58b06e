"""Retrieval: find records by text, with keys of their own."""
