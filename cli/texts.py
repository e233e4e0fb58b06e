"""Texts given to measure a model on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memvec.errors import NotFoundError, UsageError


def read_texts(paths: Sequence[str]) -> dict[str, str]:
    """{name: text} of UTF-8 files. UsageError for other bytes, NotFoundError."""
    return {Path(path).name: _read(Path(path)) for path in paths}


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{str(path)!r} is no UTF-8 text ({error.reason} at byte {error.start}). Give a text."
        ) from None
    except (FileNotFoundError, IsADirectoryError):
        raise NotFoundError(f"no file {str(path)!r}. Give a text with --text.") from None
