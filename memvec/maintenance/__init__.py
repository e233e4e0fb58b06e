"""Maintenance: rewrite, merge, export and repair a store. Loads no model.

A next generation is the live records of a store in new files, and the manifest that will name them.
A salvaged shard is a damaged one, read record by record. It holds the records that still match their digests.
Quarantine is the folder `damaged/`, where repair moves files. Nothing there is deleted.
"""
