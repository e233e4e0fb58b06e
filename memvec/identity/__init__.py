"""Identity: which model a store belongs to, and how far another model is from it."""
