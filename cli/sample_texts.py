"""Read the texts of --text, on which `capacity` and `calibrate` measure a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from memvec.errors import UsageError
from memvec.filesystem.text_files import read_text


def read_texts(paths: Sequence[str]) -> dict[str, str]:
    """Read UTF-8 files and return {name: text}.

    Raises:
        UsageError: A file is not UTF-8, or two files have the same name.
        NotFoundError: A file does not exist.
        ReadError: The system refused to read a file.
    """
    names = [Path(path).name for path in paths]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"two texts are named {twice[0]!r}, but results are listed by name. Rename one.")
    return {Path(path).name: read_text(path) for path in paths}
