"""Knows languages by their words: which one a text is in, where its sentences end, and what can be asked about them."""
