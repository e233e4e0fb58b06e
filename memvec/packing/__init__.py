"""Packing: documents become certified or distilled records of a store."""
