"""Retrieval: find the records of a store that a query asks about.

A key stands for the text of a record: a vector, or the words of the text. It is never made of the record's [mem] vectors.
An embedder makes keys of texts and of queries. A searcher holds the keys of a store in memory and compares queries with them.
An index is a FAISS file of all vector keys of a store. It can be made again at any time.
"""
