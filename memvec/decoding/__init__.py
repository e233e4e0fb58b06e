"""Decoding: records of a store become verified bytes.

A reader decodes the records of documents, many at once, and gives a piece for each. A piece is a record and its bytes, with
an error if they are not the bytes that were packed. Before that, a wrong record is decoded again, alone and on the CPU.
A restored document has its bytes, which match all digests, or an error.
"""
