"""The frozen LM: it is loaded and run here, and never changed."""
