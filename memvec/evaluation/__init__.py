"""Measure how much text vectors hold, and how well memories answer questions.

Capacity is the longest beginning of a text that M vectors hold exactly.
An arm is a thing in front of a question: the memory, the text, nothing, or a control such as noise or another memory.
The gain of a memory is the share of the text's help that it gives. Harm is its cost on prompts about other things.
"""
