"""A file that the system refuses to read is not taken for a file that is no model."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from memvec.causes import reading_checkpoint
from memvec.errors import MissingExtraError, ReadError


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE])
def test_a_refusal_names_the_place(number: int) -> None:
    with pytest.raises(ReadError, match=r"model\.safetensors"), reading_checkpoint(Path("m")):
        raise OSError(number, os.strerror(number), "m/model.safetensors")


def test_a_missing_package_is_named() -> None:
    """Some tokenizers and models of transformers import a package when they are read."""
    said = r"'m' needs a package.*`pip install protobuf`\. Install it"
    with pytest.raises(MissingExtraError, match=said), reading_checkpoint(Path("m")):
        raise ImportError("LlamaConverter requires protobuf: `pip install protobuf`.\nMore lines.")
