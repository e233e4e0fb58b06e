"""Optimise vectors of many texts at once against a frozen model.

A task is a segment or a window that waits for its vectors. It is a frozen value without a result.

A slot is the place of one task in a batch. When its fit is done, the next task takes it.

A batch holds the vectors of its slots. One step measures all slots, stores the best vectors, and changes them all.

A lesson is the teacher's answers to rows. It is computed once, before the first step.
"""
