"""Measure how much text vectors hold, and how well memories answer questions."""
