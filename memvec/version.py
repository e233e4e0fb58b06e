"""The version of memvec, and the name it writes into manifests."""

from __future__ import annotations

__version__ = "0.1.0"

TOOL = f"memvec {__version__}"  # the writer that a manifest names
