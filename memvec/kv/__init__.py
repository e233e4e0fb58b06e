"""Memories of keys and values: of what a model computed for a document, the part that it attends to most.

A *selection* is some keys and values without their places. A *front* puts them in front of prompts, as part of a cache.
`compact` chooses rows without any training, `refine` trains them for a few steps.
"""
