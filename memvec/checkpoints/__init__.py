"""Find a model's files and read them without loading the model.

A checkpoint is a folder with a configuration, weights and tokenizer files. It comes from a known name, a folder, a GGUF
file or a hub id.

An identity is the description of the model that the files give. It is cached until a file changes.
"""
