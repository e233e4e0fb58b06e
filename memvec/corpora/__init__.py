"""Documents inside files that hold many: JSON lines, Parquet, archives, datasets of Hugging Face.

A corpus yields its documents one after the other. It is never loaded whole.
"""
