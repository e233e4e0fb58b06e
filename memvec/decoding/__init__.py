"""Decoding: records of a store become verified bytes.

A reader decodes the records of documents, many at once, and gives a piece for each. A piece is a record and its bytes, or an
error if they are not the bytes that were packed. A wrong record is tried again, alone and on the CPU, before it is an error.
A restored document has its bytes, which match all digests, or an error.
"""
