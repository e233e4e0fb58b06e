"""Texts given to measure a model on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memvec.errors import NotFoundError, UsageError


def read_texts(paths: Sequence[str]) -> dict[str, str]:
    """{name: text} of UTF-8 files. UsageError for other bytes and for two files of one name, NotFoundError."""
    names = [Path(path).name for path in paths]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two texts are named {twice[0]!r}, and results go by name. Rename one.")
    return {Path(path).name: _read(Path(path)) for path in paths}


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{str(path)!r} is no UTF-8 text ({error.reason} at byte {error.start}). Give a text."
        ) from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFoundError(f"no file {str(path)!r}. Give a text with --text.") from error
