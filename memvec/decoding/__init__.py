"""Decoding: records of a store become verified bytes."""
