"""Maintenance: rewrite, merge, export and repair a store. Loads no model."""
