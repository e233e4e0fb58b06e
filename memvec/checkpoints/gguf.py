"""Convert GGUF files to checkpoints in the cache. A damaged checkpoint is converted again.

Each checkpoint holds a list of its files with their digests. The files are compared with the list at the first use. They
are compared again when one of them has a new date, size or inode (`cache`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from memvec.causes import reading_checkpoint
from memvec.checkpoints import cache as identity_cache
from memvec.checkpoints.files import quiet
from memvec.errors import MemvecError, WriteError
from memvec.filesystem.cache_folder import roots
from memvec.formats import canonical, files
from memvec.guard import loading_alone

LIST = "converted.json"
LIST_VERSION = 1
SHELF = "converted"
FOLDER = "models"
SCRATCH = ".converting-"
STALE_SECONDS = 600.0  # a scratch folder without a lock is removed if nothing was written to it in this time
ABSENT = "it is not there"


def targets(name: str, digest: str) -> list[Path]:
    """The possible folders of a GGUF file's checkpoint: in the cache, or in the temporary folder that replaces it."""
    return [root / FOLDER / f"{name}-{digest[:12]}" for root in roots()]


def fault(target: Path) -> str:
    """The reason not to use the checkpoint at `target`, or "" if every file is as it was written."""
    if not os.path.isdir(target):
        return "it is no folder" if os.path.lexists(target) else ABSENT
    wanted = _listed(target)
    if wanted is None:
        return f"it has no readable {LIST} to compare its files with"
    try:
        found = identity_cache.cached(target, str(LIST_VERSION), lambda: _digests(target), SHELF)
    except OSError as error:
        return f"it cannot be read ({error.strerror or error})"
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            said = "is missing" if name not in found else "was added" if name not in wanted else "was changed"
            return f"its {name} {said}"
    return ""


def looks_complete(target: Path) -> bool:
    """Do all files of the checkpoint at `target` exist? They are not read."""
    wanted = _listed(target) or {"config.json": ""}
    return all(os.path.isfile(target / name) for name in wanted)


def convert(gguf: Path, target: Path, again: str, notify: Callable[[str], None]) -> None:
    """Make the checkpoint at `target` of a GGUF file, unless another process has just made it.

    `again` says why an existing checkpoint is replaced.

    Raises:
        OSError: Nothing can be written there.
        WriteError: The disk is full.
        NotFoundError: The file is not a model.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # In this order in every thread, because loading may convert and converting loads.
    with loading_alone(), _lock(target):
        if not fault(target):
            return
        _clear(target)
        scratch = target.parent / f"{SCRATCH}{target.name}-{secrets.token_hex(4)}"
        scratch.mkdir()  # its mode follows the umask; tempfile would give 0700
        old = scratch.with_name(f"{scratch.name}.old")
        reason = f"the checkpoint in {target} is not used: {again}; " if again else ""
        notify(f"{reason}converting {gguf.name} to a float32 checkpoint in {target} (once, about half a minute)")
        try:
            _write(gguf, scratch)
            with contextlib.suppress(FileNotFoundError):
                target.rename(old)
            scratch.rename(target)  # so no other process sees an incomplete folder
        finally:
            _remove(scratch)
            _remove(old)


def seal(folder: Path) -> None:
    """Write the list of the files in `folder`. OSError, WriteError."""
    body = {"version": LIST_VERSION, "files": _digests(folder)}
    files.write_atomically(folder / LIST, canonical.seal("list", body))


def _write(gguf: Path, scratch: Path) -> None:
    """Write the checkpoint of a GGUF file to `scratch`. WriteError."""
    with reading_checkpoint(gguf):
        try:
            convert_gguf(gguf, scratch)
            readers = stat.S_IMODE(scratch.stat().st_mode) & 0o666
            for file in scratch.iterdir():
                file.chmod(readers)  # some writers give 0600
            seal(scratch)
        except (OSError, SafetensorError) as error:
            if isinstance(error, MemvecError):
                raise
            raise WriteError(str(scratch.parent), getattr(error, "strerror", None) or str(error)) from error


def convert_gguf(file: Path, folder: Path) -> None:
    """Write the model and tokenizer in a GGUF file as a float32 safetensors checkpoint into `folder`."""
    with loading_alone(), quiet():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, modeling_gguf_pytorch_utils

        source = {"gguf_file": file.name, "pretrained_model_name_or_path": file.parent, "trust_remote_code": False}
        drawn = getattr(modeling_gguf_pytorch_utils, "tqdm", None)  # a bar that no setting turns off
        modeling_gguf_pytorch_utils.tqdm = lambda tensors, **_: tensors
        try:
            with reading_checkpoint(file):
                tokenizer = AutoTokenizer.from_pretrained(**source)
                model = AutoModelForCausalLM.from_pretrained(
                    **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
                )
        finally:
            modeling_gguf_pytorch_utils.tqdm = drawn
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _listed(target: Path) -> Mapping[str, str] | None:
    """The digests in the checkpoint's list. None if there is no list, or it is damaged."""
    try:
        body = canonical.unseal("list", (target / LIST).read_bytes())
        return dict(body["files"]) if body["version"] == LIST_VERSION else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digests(folder: Path) -> dict[str, str]:
    """The sha256 of each file. Names that begin with a dot are left out: file managers make such files."""
    there = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name != LIST]
    return {file.name: files.sha256_of(file) for file in there if not file.name.startswith(".")}


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    try:
        with FileLock(f"{target}.lock"):
            yield
    except NotImplementedError as error:  # filelock's word for a file system without locks
        raise OSError(f"{target.parent} cannot be locked") from error


def _clear(target: Path) -> None:
    """Remove the scratch folders of killed conversions beside `target`. The caller holds the lock of `target`."""
    for left in target.parent.glob(f"{SCRATCH}*"):
        if left.name.startswith(f"{SCRATCH}{target.name}-") or _stale(left):
            _remove(left)


def _stale(left: Path) -> bool:
    """Was this scratch folder left behind: does no process use it?"""
    lock = left.parent / f"{left.name.removeprefix(SCRATCH).rpartition('-')[0]}.lock"
    try:
        if not lock.is_file():  # made by an older memvec
            dates = [path.stat().st_mtime for path in (left, *left.glob("*"))]
            return time.time() - max(dates) > STALE_SECONDS
        with FileLock(lock, timeout=0):
            return True
    except (OSError, Timeout, NotImplementedError):  # held, or a file system without locks: then leave it alone
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
