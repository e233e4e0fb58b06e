"""Vectors of many texts, found by FAISS: exact up to a size, beyond it by an index built to the side and kept in a file.

The file is derived data: it may be dropped at any time, and one that does not fit the keys is not used. FAISS does not survive
every file that it is given, so that only files are read that were written with this cache: `index build` makes one's own.
Letters: n texts, W width of a key, K neighbours.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memvec.errors import UsageError
from memvec.filesystem.cache_folder import cache_root
from memvec.formats import canonical, files
from memvec.retrieval.embedders import unit
from memvec.store.index_files import IndexInfo, read_part

Array = npt.NDArray[np.float32]

EXACT_UP_TO = 100_000  # texts; a scan of so many takes about 20 ms on one core
FLAT = "Flat"
AXES = 3  # directions that most texts of a store share, taken out of keys
LEAST_TEXTS = 64  # from which on these are known well enough
PROBES = 32  # cells looked at of an inverted file
POINTS_PER_CELL = 64  # texts that a centre is trained on, at most; FAISS by itself takes 256


@dataclass(frozen=True, slots=True)
class Space:
    """What all texts of a store have in common, taken out before keys are compared (Mu & Viswanath 2018)."""

    middle: Array  # (W,)
    axes: Array  # (A, W), orthonormal

    @classmethod
    def of(cls, values: Array) -> Space:
        """The mean of keys (n, W) and their first principal axes; nothing of too few."""
        width = values.shape[1]
        if len(values) < LEAST_TEXTS:
            return cls(np.zeros(width, np.float32), np.zeros((0, width), np.float32))
        middle = values.mean(0, dtype=np.float32)
        rest = values - middle
        _, axes = np.linalg.eigh(rest.T @ rest)
        return cls(middle, np.ascontiguousarray(axes.T[::-1][:AXES], dtype=np.float32))

    def place(self, values: Array) -> Array:
        """Keys (n, W) float32 without what is common, of unit length."""
        rest = values - self.middle
        return unit(rest - rest @ self.axes.T @ self.axes)


class VectorIndex:
    """Keys in a FAISS index, by number from 0."""

    def __init__(self, index: Any, space: Space) -> None:
        self.index, self.space, self._mapping = index, space, threading.Lock()

    @classmethod
    def build(cls, values: Array, factory: str | None = None, space: Space | None = None) -> VectorIndex:
        """An index of keys (n, W); `factory` as FAISS writes it, by default chosen by n. UsageError."""
        import faiss

        space = space or Space.of(values)
        chosen = factory or choose(len(values))
        with _threads():
            try:
                index = faiss.index_factory(values.shape[1], chosen, faiss.METRIC_INNER_PRODUCT)
            except RuntimeError as error:
                raise UsageError(
                    f"FAISS knows no index {chosen!r} ({_first(error)}). Try Flat or IVF256,SQfp16."
                ) from error
            inverted = faiss.try_extract_index_ivf(index)
            if inverted is not None:
                inverted.cp.min_points_per_centroid = 1  # fewer is said on stderr, where it helps nobody
                inverted.cp.max_points_per_centroid = POINTS_PER_CELL
            placed = space.place(values)
            try:
                if not index.is_trained:
                    index.train(placed)
                index.add(placed)
            except RuntimeError as error:
                raise UsageError(f"{chosen!r} cannot be built of {len(values)} keys ({_first(error)}).") from error
        return cls(index, space)

    def search(self, query: Array, count: int, allowed: npt.NDArray[np.bool_] | None = None) -> tuple[Any, Array]:
        """(numbers (K,), cosines (K,)) of the `count` keys nearest to a key (W,), of those `allowed` (n,)."""
        import faiss

        options: dict[str, Any] = {}
        if allowed is not None:
            options["sel"] = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        inverted = faiss.try_extract_index_ivf(self.index)
        if inverted is not None:
            parameters = faiss.SearchParametersIVF(nprobe=min(PROBES, inverted.nlist), **options)
        elif options and isinstance(faiss.downcast_index(self.index), faiss.IndexHNSW):
            parameters = faiss.SearchParametersHNSW(**options)
        else:
            parameters = faiss.SearchParameters(**options) if options else None
        with _threads():
            cosines, numbers = self.index.search(
                self.space.place(query[None]), min(count, self.index.ntotal), params=parameters
            )
        found = numbers[0] >= 0  # fewer than asked for are filled up with -1
        return numbers[0][found], cosines[0][found]

    def vectors(self, numbers: npt.NDArray[np.int64]) -> Array:
        """The keys (K, W) of these numbers, as they are compared."""
        import faiss

        inverted = faiss.try_extract_index_ivf(self.index)
        with self._mapping:  # once, however many threads search
            if inverted is not None and inverted.direct_map.type == faiss.DirectMap.NoMap:
                inverted.make_direct_map()
        found: Array = self.index.reconstruct_batch(numbers)
        return found


def choose(texts: int) -> str:
    """The index for so many texts: a plain scan, else an inverted file with about 4√n cells, keys in 16 bits."""
    return FLAT if texts <= EXACT_UP_TO else f"IVF{4 * math.isqrt(texts)},SQfp16"


def save(folder: Path, built: VectorIndex, made: dict[str, Any]) -> IndexInfo:
    """Write an index to the side and swap it in; the description is written last."""
    import faiss

    if folder.is_symlink():
        raise UsageError(f"{str(folder)!r} is a link; a store holds its files itself. Remove it.")
    files.make_folder(folder)
    for file in _files(folder, made["embedder_id"]):
        _make_way(file)
    # In memory first: faiss.write_index takes a full disk for success, and leaves a cut file behind.
    data = memoryview(faiss.serialize_index(built.index))
    digest = hashlib.sha256(data).hexdigest()
    files.write_atomically(folder / f"{made['embedder_id']}.faiss", data)
    space = np.concatenate([built.space.middle[None], built.space.axes]).astype("<f4")
    files.write_atomically(folder / f"{made['embedder_id']}.space", space.tobytes())
    info = IndexInfo(sha256=digest, space=hashlib.sha256(space.tobytes()).hexdigest(), **made)
    with contextlib.suppress(OSError):  # without a cache the index is not used; the search is right all the same
        files.make_folder(_mark(info).parent)
        files.write_atomically(_mark(info), b"")
    files.write_atomically(folder / f"{info.embedder_id}.json", canonical.dumps(asdict(info)) + b"\n")
    return info


def load(folder: Path, info: IndexInfo) -> VectorIndex | None:
    """Map a kept index into memory. None if another user built it, or its files differ from its description."""
    import faiss

    if not own(info):
        return None
    file = folder / f"{info.embedder_id}.faiss"
    try:
        files.size_of(folder.parent, f"{folder.name}/{file.name}")
        data = read_part(folder, info.embedder_id, "space", 4 * info.width * (1 + AXES))
        if hashlib.sha256(data).hexdigest() != info.space or files.sha256_of(file) != info.sha256:
            return None  # FAISS itself reads a changed file without a word
        index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
        rows = np.frombuffer(data, "<f4").reshape(-1, info.width)
    except (OSError, RuntimeError, ValueError):
        return None
    fitting = (index.ntotal, index.d) == (info.texts, info.width) and len(rows) > 0
    return VectorIndex(index, Space(rows[0], rows[1:])) if fitting else None


def own(info: IndexInfo) -> bool:
    """Was this index built with this cache? FAISS is given no other."""
    return _mark(info).is_file()


def drop(folder: Path, embedder_id: str) -> None:
    """Remove a kept index, its description first."""
    for file in _files(folder, embedder_id):
        _make_way(file)
        file.unlink(missing_ok=True)


def _files(folder: Path, embedder_id: str) -> list[Path]:
    """The files of a kept index, its description first."""
    return [folder / f"{embedder_id}.{ending}" for ending in ("json", "faiss", "space")]


def _make_way(file: Path) -> None:
    """Remove a folder in the place of a file: an index is made again at any time."""
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)


def _mark(info: IndexInfo) -> Path:
    """The mark that building an index leaves in the cache: a file with the index's digest as its name."""
    return cache_root() / "indexes" / hashlib.sha256(f"{info.sha256} {info.space}".encode()).hexdigest()


def _first(error: Exception) -> str:
    """The first line of what FAISS says, without the place in its sources."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^Error in .* at \S+:\d+: (Error: '.*' failed: )?", "", line)[:120]


@contextlib.contextmanager
def _threads() -> Iterator[None]:
    """FAISS and torch share one setting of threads on Linux: left as it was found."""
    import faiss

    before = faiss.omp_get_max_threads()
    try:
        yield
    finally:
        if faiss.omp_get_max_threads() != before:
            faiss.omp_set_num_threads(before)
