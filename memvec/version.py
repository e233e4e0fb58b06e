"""The version of memvec, and how it signs what it writes."""

from __future__ import annotations

__version__ = "0.1.0"

TOOL = f"memvec {__version__}"  # what a manifest says it was written by
