"""Chat templates: where a memory stands in a prompt. Knows tokenizers and no model."""
