"""Identity: find the model that a store belongs to, and tell how far another model is from it.

A fingerprint stands for one model and tokenizer. An identity is a fingerprint with a digest of each tensor and a numeric probe.
A numeric probe holds the answers of a model to fixed input, in float32. It tells how far another model is from this one.
A verdict names that distance: identical, another precision, relative, different. It decides on the uses of the model.
A runtime is an opened store with its model. The model is found, compared and loaded once.
"""
