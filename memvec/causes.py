"""Tell why a library raised an error: memory ran out, memvec has a mistake, or the input is bad."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EIO, EMFILE, ENFILE, ENOMEM, EPERM
from pathlib import Path

from safetensors import SafetensorError

from memvec.errors import MemvecError, MissingExtraError, NotFoundError, OutOfMemoryError, ReadError

# Messages of torch and the system about memory, in errors that have no class of their own.
SAID = ("not enough memory", "out of memory", "cannot allocate memory", "can't allocate memory", "failed to allocate")
# Errors of transformers, tokenizers and safetensors on files that are not a checkpoint.
UNREADABLE = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, SafetensorError)
REFUSED = (EACCES, EPERM, EIO, EMFILE, ENFILE)  # the system refused, so the file may be good
READERS = {"transformers", "tokenizers", "safetensors", "huggingface_hub", "gguf", "torch", "json"}
MISTAKES = (AttributeError, TypeError, NameError, AssertionError, IndexError)


def out_of_memory(error: BaseException) -> bool:
    """Did memory run out, of the machine or of a GPU?"""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == ENOMEM
    return isinstance(error, Exception) and any(words in str(error).lower() for words in SAID)


def own_mistake(error: BaseException) -> bool:
    """Does the error come from a mistake in memvec's code, not from a library that read bad input?"""
    if not isinstance(error, MISTAKES):
        return False
    packages = [
        str(frame.f_globals.get("__name__", "")).split(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    return packages[-1:] == ["memvec"] or not READERS & set(packages)


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's message, up to `most` characters. Without a message, the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Turn errors of memory that ran out into an OutOfMemoryError. `what` names the work, such as "pack"."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemvecError) or not out_of_memory(error):
            raise
        raise OutOfMemoryError(what, error) from error


@contextmanager
def reading_checkpoint(where: Path) -> Iterator[None]:
    """Turn the errors of libraries that read a checkpoint at `where` into memvec's.

    Raises:
        MissingExtraError: A package that the checkpoint needs is not installed.
        NotFoundError: The file or folder is not a checkpoint.
        OutOfMemoryError: Memory ran out.
        ReadError: The system refused to read.
    """
    try:
        yield
    except (*UNREADABLE, MemoryError, ImportError) as error:
        if isinstance(error, MemvecError) or own_mistake(error):
            raise
        if isinstance(error, ImportError):
            raise MissingExtraError(
                f"{str(where)!r} needs a package to be read: {first_line(error).rstrip('.')}. Install it, or pass another model."
            ) from error
        if out_of_memory(error):
            raise OutOfMemoryError(f"load {str(where)!r}", error) from error
        if isinstance(error, OSError) and error.errno in REFUSED:
            raise ReadError(str(error.filename or where), error.strerror or str(error)) from error
        reason = str(error).splitlines()[0][:200] if str(error) else ""
        raise NotFoundError(
            f"{str(where)!r} cannot be read as a model: {type(error).__name__}: {reason}. Expected config.json, "
            "tokenizer files and safetensors, or a complete GGUF file of an architecture that transformers reads."
        ) from error
