"""Identity: which model a store belongs to, and how far another model is from it.

A fingerprint stands for one model and tokenizer. An identity is a fingerprint with a digest of each tensor and a probe.
A probe holds what a model says to fixed input, in float32. It tells how far another model is from this one.
A verdict says how far that is: identical, other precision, relative, different. It decides what the model may be used for.
A runtime is an opened store with its model. The model is found, compared and loaded once.
"""
