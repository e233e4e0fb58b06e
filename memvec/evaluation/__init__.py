"""Measure how much text vectors hold, and how well memories answer questions.

Capacity is the longest beginning of a text that M vectors hold exactly.
A control stands in front of a question in place of the memory: nothing, noise, another memory, a part of the text.
The gain of a memory is its share of what the text itself is worth to the model. Harm is what it costs other prompts.
"""
