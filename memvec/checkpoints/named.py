"""Find the model that a store names, when the caller names none.

A store may come from a stranger. So its model must be on this machine already: nothing is downloaded or converted for it.
A folder inside a store is not accepted. The model is compared with the store's fingerprint before it is loaded.
"""

from __future__ import annotations

from pathlib import Path

from memvec.checkpoints.resolve import KNOWN, Notify, converted_before, resolve, silent
from memvec.errors import MemvecError, NotFoundError
from memvec.filesystem.paths import is_store


def folder_named(source: str, notify: Notify = silent) -> Path:
    """Return the checkpoint folder that a store names as its model.

    Args:
        source: The model's name in the store's fingerprint: a known name, an absolute folder, or a hub id.
        notify: A function that is called with a message before long work.

    Raises:
        NotFoundError: The model is not on this machine, or a store may not name it.
    """
    if source in KNOWN:
        return resolve(source, notify)
    path = Path(source)
    try:
        if not source or source.startswith("~") or "\0" in source:
            raise _refused(source, "is no name of a model")
        if path.is_absolute() and not source.startswith(("//", "\\\\")):
            if _in_store(path):
                raise _refused(source, "lies in a store")
            if path.is_dir():
                return resolve(source, notify, download=False)
            return _converted(path)
        if path.exists() or source.count("/") != 1 or source.startswith((".", "/", "\\")):
            raise _refused(source, "is neither an absolute folder nor a hub id")
        return resolve(source, notify, download=False)
    except NotFoundError:
        raise
    except (MemvecError, OSError, ValueError) as error:
        raise _refused(source, f"cannot be looked for ({type(error).__name__})") from error


def _converted(file: Path) -> Path:
    """The checkpoint that a GGUF file was converted to before. A GGUF file that only the store names is not converted."""
    if file.is_file() and file.suffix.lower() == ".gguf" and (found := converted_before(file)) is not None:
        return found
    raise _refused(str(file), "is no checkpoint folder here, and no GGUF file that was converted before")


def _in_store(path: Path) -> bool:
    """Is a folder in a store, with links followed? Then the store's author made the model."""
    real = path.resolve()
    return any(is_store(above) for above in (real, *real.parents))


def _refused(source: str, why: str) -> NotFoundError:
    return NotFoundError(
        f'the store names {source[:200]!r} as its model, which {why}. Pass the model it was packed with: model="…".'
    )
