"""Chat templates: render messages, and find the place of a memory in a prompt. Knows tokenizers and no model."""
