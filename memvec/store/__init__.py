"""The store on disk: a manifest names immutable shards and key files. Knows no model."""
