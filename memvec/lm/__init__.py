"""Load and run the frozen model.

A FrozenLM is a model and its tokenizer. Nothing here changes a weight.

A row is a list of tokens behind a prefix. The model runs a prefix once for all of its rows.

A pass over the LM head gives surprisals, margins and gradients. It never holds the logits of all positions at once.
"""
