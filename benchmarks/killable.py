"""The verbs that benchmarks/kills.py kills, with their stores and the documents allowed before and after."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import memvec.packing.commit
import memvec.packing.exact
from memvec.errors import NotFoundError
from memvec.filesystem.sources import Source
from memvec.maintenance.compact import compact
from memvec.maintenance.gc import gc
from memvec.maintenance.merge import merge
from memvec.maintenance.remove import rm
from memvec.maintenance.repair import repair
from memvec.packing.pack import pack
from memvec.settings import PackSettings
from memvec.store.store import Store

TINY = Path(__file__).parents[1] / "tests" / "tiny" / "model"
SETTINGS = PackSettings(
    nats_per_vector=9.0, segment_tokens=32, max_steps=150, learning_rate=1.0, last_rate=1.0, memory=3_000_000
)
FIRST = {
    "prose.txt": b"It is a truth universally acknowledged, that a single man must be in want of a wife.\n",
    "letter.txt": b"My dear sister, I write from the inn at Meryton, where it rains and nobody comes.\n",
    "old.txt": b"This is what the document said before its author changed it.\n",
    "image.png": b"\x89PNG" + bytes(range(200)),
    "empty": b"",
}
CHANGED = {"old.txt": b"The author changed it, and this is what the document says now.\n"}
SECOND = {
    "letter.txt": b"My dear sister, the rain is over, and the carriage comes for us this evening.\n",
    "other.txt": b"She was not sorry to be recalled from so dull a walk by a call to supper.\n",
}
Documents = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """A verb with its store, the documents allowed after a kill, and those required at its end."""

    verb: str
    prepare: Callable[[Path], None]  # make the store in a folder
    run: Callable[[Path], object]  # the command, on the store "s" in that folder
    before: Documents  # that unpack from the store as it was prepared
    after: Documents  # and when the command has ended
    readable: bool = True  # can it be read before the command has ended?


def sources(documents: Documents) -> list[Source]:
    """Documents to be packed."""
    return [Source(name, data) for name, data in documents.items()]


def packed(path: Path, documents: Documents) -> None:
    """Pack with the tiny LM, each record in a commit of its own."""
    memvec.packing.commit.COMMIT_SECONDS, memvec.packing.exact.CERTIFY_AT_ONCE = 0.0, 1
    pack(sources(documents), path, model=str(TINY), settings=SETTINGS, dtype="float32")


def forked(work: Callable[[], object]) -> int:
    """Run in a process of its own and return its number. It exits with 0, or with 1 after it has printed an error."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        work()
        code = 0
    except Exception:  # noqa: BLE001 — whatever it is, the parent says what was killed
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(work: Callable[[], object]) -> None:
    """Run to the end. RuntimeError if it fails."""
    _, status = os.waitpid(forked(work), 0)
    if status:
        raise RuntimeError(f"ended with {status}")


def flip(store: Path) -> None:
    """Damage one record of `prose.txt`."""
    opened = Store.open(store)
    ref = opened.documents()["prose.txt"].records[0]
    part, file = opened.shard(ref.shard), store / opened.manifest.shards[ref.shard].path
    data = bytearray(file.read_bytes())
    data[data.index(part.record(ref.row).vectors.tobytes())] ^= 1
    file.write_bytes(data)


def cases(folder: Path) -> list[Case]:
    """Every verb with its stores, which are packed into `folder`."""
    first, second = folder / "first", folder / "second"
    finish(lambda: packed(first, FIRST))
    finish(lambda: packed(second, SECOND))
    whole = shutil.copytree(first, folder / "whole")
    finish(lambda: packed(whole, CHANGED))
    removed = shutil.copytree(whole, folder / "removed")
    rm(removed, ["image.png"])
    left = shutil.copytree(removed, folder / "left")
    compact(left)
    (left / "shards" / ".tmp-0123456789abcdef").write_bytes(b"half of a file")

    def copies(**stores: Path) -> Callable[[Path], None]:
        return lambda target: [shutil.copytree(store, target / name) for name, store in stores.items()] and None

    def lost(target: Path) -> None:
        shutil.copytree(removed, target / "s")
        (target / "s" / "manifest.json").unlink()

    def damaged(target: Path) -> None:
        shutil.copytree(whole, target / "s")
        flip(target / "s")

    def removing(target: Path) -> None:
        try:
            rm(target / "s", ["letter.txt", "image*"])
        except NotFoundError:  # they were removed before the kill
            if {"letter.txt", "image.png"} & Store.open(target / "s").documents().keys():
                raise

    all_of, without = FIRST | CHANGED, {name: data for name, data in (FIRST | CHANGED).items() if name != "image.png"}
    merged = all_of | SECOND
    return [
        Case("pack", lambda _: None, lambda f: packed(f / "s", SECOND), {}, SECOND),
        Case("pack", copies(s=first), lambda f: packed(f / "s", CHANGED | SECOND), FIRST, merged),
        Case("rm", copies(s=whole), removing, all_of, {n: d for n, d in without.items() if n != "letter.txt"}),
        Case("compact", copies(s=removed), lambda f: compact(f / "s"), without, without),
        Case("gc", copies(s=left), lambda f: gc(f / "s"), without, without),
        Case("merge", copies(s=whole, a=second), lambda f: merge([f / "a"], f / "s"), all_of, merged),
        Case("merge", copies(a=whole, b=second), lambda f: merge([f / "a", f / "b"], f / "s"), {}, merged),
        Case("repair", lost, lambda f: repair(f / "s", yes=True), all_of, all_of, readable=False),
        Case("repair", damaged, lambda f: repair(f / "s", yes=True), all_of,
             {n: d for n, d in all_of.items() if n != "prose.txt"}, readable=False),
    ]  # fmt: skip
