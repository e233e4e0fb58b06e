"""Memory: context vectors of a store in front of prompts of a frozen LM.

A memory holds the context vectors of one or more documents, loaded from a store. It belongs to one model.
A frame is the tokens of a prompt before and after the place of the memory: BOS, chat template and question.
A carrier puts memories into a call of `model.generate`. A block of `attached` is code in which all such calls get one.
A draft is the text that exact vectors give by plain generation. It is not verified.
"""
