"""Texts given to measure a model on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memvec.errors import UsageError
from memvec.filesystem.text_files import read_text


def read_texts(paths: Sequence[str]) -> dict[str, str]:
    """{name: text} of UTF-8 files. UsageError for other bytes and for two files of one name, NotFoundError, ReadError."""
    names = [Path(path).name for path in paths]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two texts are named {twice[0]!r}, and results go by name. Rename one.")
    return {Path(path).name: read_text(path) for path in paths}
