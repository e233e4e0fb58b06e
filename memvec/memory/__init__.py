"""Memory: context vectors, or keys and values, of a store in front of prompts of a frozen LM.

A memory holds the context vectors of one or more documents, or their keys and values. It is loaded from a store, and
belongs to one model.
A frame is the tokens of a prompt before and after the place of the memory: BOS, chat template and question.
A carrier puts memories into a call of `model.generate`. A block of `attached` is code in which all such calls get one.
A draft is the text that exact vectors give by plain generation. It is not verified.
"""
