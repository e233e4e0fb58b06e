"""Errors survive copies, also those between processes."""

from __future__ import annotations

import copy
import importlib
import multiprocessing
import pickle
import pkgutil
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import memvec
from memvec import errors
from memvec.copyable import Copyable
from memvec.errors import MemvecError, PartialError
from memvec.settings import PackSettings
from memvec.types import PackReport, Problem, Skipped, UnpackReport

PACKED = PackReport(
    2,
    7,
    1,
    900,
    210,
    210,
    21,
    10.0,
    3,
    0,
    20_000,
    30_000,
    480,
    960,
    12.5,
    "tiny",
    "ab12",
    True,
    gain=0.5,
    harm=0.01,
    skipped=(Skipped("pipe", "is not a file"),),
    zstd_sampled=True,
)
UNPACKED = UnpackReport(2, 900, 210, 0.5, ("a.txt", "b/c.txt"), 1, ("d.txt.partial",))
PROBLEMS = [Problem(f"shards/{n}.safetensors", "digest_mismatch", "bytes changed") for n in range(5)]
DIFFERENCES = [("weights", "ab12", "cd34"), ("vocabulary", "9", "10")]

# Each class as memvec raises it: with every optional argument that becomes an attribute.
MADE: dict[str, Callable[[type[Any]], BaseException]] = {
    "MemvecError": lambda cls: cls("something else"),
    "UsageError": lambda cls: cls("k is 0, expected 1 to 10000."),
    "UnsupportedModelError": lambda cls: cls("t5 is an encoder-decoder"),
    "ConditioningError": lambda cls: cls("a.txt", "s.memvec"),
    "NoContentError": lambda cls: cls("a.txt", "b.txt"),
    "StoreDamagedError": lambda cls: cls(PROBLEMS),
    "FingerprintError": lambda cls: cls(DIFFERENCES, "a relative", ["lm_head.weight"] * 7, ["the tokenizer has 1 more"]),
    "StoresDifferError": lambda cls: cls("a.memvec", "b.memvec", DIFFERENCES),
    "ReconstructionError": lambda cls: cls(
        "a.txt", "12ab", "0" * 64, "1" * 64, tried=("in a batch", "alone"), position=7, evidence="margin 0.1", verdict="same"
    ),
    "NotFoundError": lambda cls: cls("no store at 's.memvec'."),
    "FormatTooNewError": lambda cls: cls("format 2.0", "1.x", "unsupported-version"),
    "StoreLockedError": lambda cls: cls("process 12 writes to it."),
    "StoreChangedError": lambda cls: cls("shards/1.safetensors", 3, 4),
    "WriteError": lambda cls: cls("s.memvec/manifest.json", "No space left on device"),
    "ReadError": lambda cls: cls("s.memvec/manifest.json", "Input/output error"),
    "OutOfMemoryError": lambda cls: cls("pack", "CUDA out of memory. Tried to allocate 2 GiB"),
    "PartialError": lambda cls: cls([("pipe", "is not a file")], PACKED, "Everything else was packed."),
    "MissingExtraError": lambda cls: cls("faiss is not installed. Install it with: pip install 'memvec[search]'"),
    "InterruptedPackError": lambda cls: cls(PACKED, 3),
    "Refusal": lambda cls: cls("cut-off", "bytes end early"),
    "UnreliableError": lambda cls: cls("a digest differs"),
    "ReaderGoneError": lambda cls: cls(),
    "StoppedError": lambda cls: cls(),
    "UnfitError": lambda cls: cls("not a regular file"),
    "_NoRoom": lambda cls: cls("the prompt takes 100 positions"),
    "_NoText": lambda cls: cls("'image.png' is not text"),
    "_TimeIsUp": lambda cls: cls(),
}  # fmt: skip


def classes() -> Iterator[type[BaseException]]:
    """Every exception class of memvec, of all its modules."""
    for found in pkgutil.walk_packages(memvec.__path__, "memvec."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    waiting = [BaseException]
    seen: set[type] = set()
    while waiting:
        for cls in waiting.pop().__subclasses__():
            if cls not in seen:
                seen.add(cls)
                waiting.append(cls)
                if cls.__module__.split(".")[0] == "memvec" and cls is not Copyable:
                    yield cls


ALL = sorted(classes(), key=lambda cls: cls.__name__)


def by_pickle(error: BaseException) -> BaseException:
    copied: BaseException = pickle.loads(pickle.dumps(error))  # noqa: S301  # its own bytes
    return copied


def test_table() -> None:
    """Every class is in the table."""
    assert [cls.__name__ for cls in ALL] == sorted(MADE), "give the new class an entry in MADE"


@pytest.mark.parametrize("copied", [by_pickle, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_copy(cls: type[BaseException], copied: Callable[[Any], Any]) -> None:
    """Type, message, values, notes and exit code survive, and the copy can be raised and copied again."""
    error = MADE[cls.__name__](cls)
    error.__notes__ = ["while packing the third folder"]  # type: ignore[attr-defined]  # add_note is of Python 3.11
    for again in (copied(error), copied(copied(error))):
        assert type(again) is cls and again is not error
        assert (str(again), repr(again), again.args) == (str(error), repr(error), error.args)
        assert vars(again) == vars(error) and again.__notes__ == ["while packing the third folder"]
        if isinstance(error, MemvecError):
            assert again.exit_code == error.exit_code
        assert traceback.format_exception_only(again) == traceback.format_exception_only(error)
        with pytest.raises(cls):
            raise again


def test_system_fields() -> None:
    """Python keeps errno, strerror and file names of an OSError, and the module of an ImportError, outside __dict__."""
    error = errors.WriteError("s.memvec", "No space left on device")
    error.errno, error.strerror, error.filename = 28, "No space left on device", "s.memvec"
    missing = errors.MissingExtraError("no faiss", name="faiss", path="/lib")
    for copied in (by_pickle, copy.copy, copy.deepcopy):
        again, other = copied(error), copied(missing)
        assert isinstance(again, errors.WriteError) and isinstance(other, errors.MissingExtraError)
        assert (again.errno, again.strerror, again.filename) == (28, "No space left on device", "s.memvec")
        assert (again.path, again.reason) == ("s.memvec", "No space left on device") and str(again) == str(error)
        assert (other.name, other.path, other.msg) == ("faiss", "/lib", "no faiss")


def test_reports(packed: Path) -> None:
    """Reports survive copies."""
    assert by_pickle(PartialError([("a", "b")], UNPACKED)).report == UNPACKED  # type: ignore[attr-defined]
    found: list[Any] = [
        memvec.info(packed),
        memvec.list(packed),
        memvec.verify(packed),
        memvec.show(packed, "prose.txt"),
    ]
    found += [memvec.gc(packed, dry_run=True), memvec.compact(packed, dry_run=True), memvec.models()]
    for report in found:
        assert pickle.loads(pickle.dumps(report)) == copy.deepcopy(report) == report  # noqa: S301  # its own bytes


class HostError(errors.UsageError):
    """A class that a host program derives is copied as well."""

    def __init__(self, tenant: str, *, request: int) -> None:
        self.tenant, self.request = tenant, request
        super().__init__(f"{tenant} asked wrongly")


def test_host_error() -> None:
    again = by_pickle(HostError("acme", request=3))
    assert isinstance(again, HostError) and (again.tenant, again.request) == ("acme", 3)


def pack_in_a_worker(folder: str, store: str, model: str, settings: PackSettings) -> PackReport:
    return memvec.pack([folder], store, model=model, settings=settings, dtype="float32")


def test_a_worker_delivers_the_report_of_a_partial_pack(
    tiny: str, tmp_path: Path, tiny_settings: Callable[..., PackSettings]
) -> None:
    """The pool's caller gets the report with what was skipped, and the pool goes on."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "image.bin").write_bytes(bytes(range(256)))
    (folder / "link").symlink_to(folder / "nowhere")
    store = str(tmp_path / "s.memvec")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        job = pool.submit(pack_in_a_worker, str(folder), store, tiny, tiny_settings())
        report = job.result(timeout=120)
        assert report.skipped[0].name == "link"
        assert report == replace(memvec.info(store), seconds=report.seconds, skipped=report.skipped)
        with pytest.raises(errors.NotFoundError):
            pool.submit(memvec.info, str(tmp_path / "none.memvec")).result(timeout=60)


def test_a_message_names_so_many_skipped_inputs() -> None:
    """A corpus may have thousands of rows that are no documents."""
    error = PartialError([(f"a.jsonl#{n}", "no JSON") for n in range(errors.MOST_SHOWN + 2500)])
    lines = str(error).splitlines()
    assert len(lines) == errors.MOST_SHOWN + 2 and len(error.skipped) == errors.MOST_SHOWN + 2500
    assert lines[0].startswith("skipped 2,600 inputs.") and lines[-1] == "  and 2,500 more"
