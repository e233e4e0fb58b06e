"""Maintenance: rewrite, merge, export and repair a store. Loads no model.

A `NextGeneration` writes the live records of a store into new files, which the next manifest will name.
A salvaged shard is a damaged one that was read record by record. It holds the records that still match their digests.
Quarantine is the folder `damaged/`, where repair moves files. Nothing there is deleted.
"""
