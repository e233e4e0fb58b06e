"""Packing: documents become certified or distilled records of a store.

A plan says what one lot of documents needs: raw records, segments to fit, records to copy.
A segment is fitted and certified, a window is distilled and measured. Both become records.
The committer adds records to the store in shards. The report of a pack comes from what it added.
"""
