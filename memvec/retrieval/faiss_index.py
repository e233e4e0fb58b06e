"""Find vector keys with FAISS: by a scan in small stores, by an index in a file in large ones.

The file can be deleted at any time. It is not used if it does not match the keys. FAISS crashes on some damaged files, so
memvec reads only files that were written with the same cache folder. Other users build their own with `index build`.
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

from memvec.causes import first_line
from memvec.errors import UsageError, counted
from memvec.filesystem.cache_folder import cache_root
from memvec.formats import canonical, files
from memvec.retrieval.embedders import unit
from memvec.store.index_files import IndexInfo, read_part

Array = npt.NDArray[np.float32]

EXACT_UP_TO = 100_000  # texts; a scan of so many takes about 20 ms on one core
FLAT = "Flat"
AXES = 3  # common directions that are removed from keys
LEAST_TEXTS = 64  # fewer texts do not show their common directions well enough
PROBES = 32  # cells of an inverted file that are searched
POINTS_PER_CELL = 64  # most texts that a centre is trained on; FAISS takes 256 by default


@dataclass(frozen=True, slots=True)
class Space:
    """The mean and the common directions of a store's keys. Both are removed before comparing (Mu & Viswanath 2018)."""

    middle: Array  # (W,)
    axes: Array  # (A, W), orthonormal

    @classmethod
    def of(cls, values: Array) -> Space:
        """The mean of keys (n, W) and their first principal axes; zero and none for too few keys."""
        width = values.shape[1]
        if len(values) < LEAST_TEXTS:
            return cls(np.zeros(width, np.float32), np.zeros((0, width), np.float32))
        middle = values.mean(0, dtype=np.float32)
        rest = values - middle
        _, axes = np.linalg.eigh(rest.T @ rest)
        return cls(middle, np.ascontiguousarray(axes.T[::-1][:AXES], dtype=np.float32))

    def place(self, values: Array) -> Array:
        """Keys (n, W) float32 without mean and common directions, of unit length."""
        rest = values - self.middle
        return unit(rest - rest @ self.axes.T @ self.axes)


class VectorIndex:
    """A FAISS index of keys, which are numbered from 0."""

    def __init__(self, index: Any, space: Space) -> None:
        self.index, self.space, self._mapping = index, space, threading.Lock()

    @classmethod
    def build(cls, values: Array, factory: str | None = None, space: Space | None = None) -> VectorIndex:
        """Build an index of keys (n, W). `factory` is FAISS's name of an index, by default chosen by n. UsageError."""
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
                inverted.cp.min_points_per_centroid = 1  # else FAISS prints a warning to stderr
                inverted.cp.max_points_per_centroid = POINTS_PER_CELL
            placed = space.place(values)
            try:
                if not index.is_trained:
                    index.train(placed)
                index.add(placed)
            except RuntimeError as error:
                keys = counted(len(values), "key")
                raise UsageError(f"{chosen!r} cannot be built of {keys} ({_first(error)}).") from error
        return cls(index, space)

    def search(self, query: Array, count: int, allowed: npt.NDArray[np.bool_] | None = None) -> tuple[Any, Array]:
        """(numbers (K,), cosines (K,)) of the `count` nearest keys to a key (W,), among those `allowed` (n,)."""
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
        found = numbers[0] >= 0  # FAISS fills missing results up with -1
        return numbers[0][found], cosines[0][found]

    def vectors(self, numbers: npt.NDArray[np.int64]) -> Array:
        """The keys (K, W) with these numbers, in the form in which they are compared."""
        import faiss

        inverted = faiss.try_extract_index_ivf(self.index)
        with self._mapping:  # made once, also if many threads search
            if inverted is not None and inverted.direct_map.type == faiss.DirectMap.NoMap:
                inverted.make_direct_map()
        found: Array = self.index.reconstruct_batch(numbers)
        return found


def choose(texts: int) -> str:
    """The index for a number of texts: a plain scan, or above a size an inverted file of about 4√n cells, in 16 bits."""
    return FLAT if texts <= EXACT_UP_TO else f"IVF{4 * math.isqrt(texts)},SQfp16"


def save(folder: Path, built: VectorIndex, made: dict[str, Any]) -> IndexInfo:
    """Write an index in place of the stored one. The description is written last."""
    import faiss

    if folder.is_symlink():
        raise UsageError(f"{str(folder)!r} is a link, expected a folder. Remove the link.")
    files.make_folder(folder)
    for file in _files(folder, made["embedder_id"]):
        _make_way(file)
    # In memory first: on a full disk, faiss.write_index reports success and leaves a truncated file.
    data = memoryview(faiss.serialize_index(built.index))
    digest = hashlib.sha256(data).hexdigest()
    files.write_atomically(folder / f"{made['embedder_id']}.faiss", data)
    space = np.concatenate([built.space.middle[None], built.space.axes]).astype("<f4")
    files.write_atomically(folder / f"{made['embedder_id']}.space", space.tobytes())
    info = IndexInfo(sha256=digest, space=hashlib.sha256(space.tobytes()).hexdigest(), **made)
    with contextlib.suppress(OSError):  # without a cache folder the index is not used, and a search scans all keys
        files.make_folder(_mark(info).parent)
        files.write_atomically(_mark(info), b"")
    files.write_atomically(folder / f"{info.embedder_id}.json", canonical.dumps(asdict(info)) + b"\n")
    return info


def load(folder: Path, info: IndexInfo) -> VectorIndex | None:
    """Map a stored index into memory. None if another user built it, or its files differ from its description."""
    import faiss

    if not own(info):
        return None
    file = folder / f"{info.embedder_id}.faiss"
    try:
        files.size_of(folder.parent, f"{folder.name}/{file.name}")
        data = read_part(folder, info.embedder_id, "space", 4 * info.width * (1 + AXES))
        if hashlib.sha256(data).hexdigest() != info.space or files.sha256_of(file) != info.sha256:
            return None  # FAISS itself does not notice a changed file
        index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
        rows = np.frombuffer(data, "<f4").reshape(-1, info.width)
    except (OSError, RuntimeError, ValueError):
        return None
    matching = (index.ntotal, index.d) == (info.texts, info.width) and len(rows) > 0
    return VectorIndex(index, Space(rows[0], rows[1:])) if matching else None


def own(info: IndexInfo) -> bool:
    """Was this index built with this cache folder? FAISS reads no others."""
    return _mark(info).is_file()


def drop(folder: Path, embedder_id: str) -> None:
    """Remove a stored index, its description first."""
    for file in _files(folder, embedder_id):
        _make_way(file)
        file.unlink(missing_ok=True)


def _files(folder: Path, embedder_id: str) -> list[Path]:
    """The files of a stored index, its description first."""
    return [folder / f"{embedder_id}.{ending}" for ending in ("json", "faiss", "space")]


def _make_way(file: Path) -> None:
    """Remove a folder that is in the place of a file. An index can be made again at any time."""
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)


def _mark(info: IndexInfo) -> Path:
    """The mark that building an index leaves in the cache: a file with the index's digest as its name."""
    return cache_root() / "indexes" / hashlib.sha256(f"{info.sha256} {info.space}".encode()).hexdigest()


def _first(error: Exception) -> str:
    """The first line of a message of FAISS, without the place in its sources."""
    return re.sub(r"^Error in .* at \S+:\d+: (Error: '.*' failed: )?", "", first_line(error, 1000))[:120]


@contextlib.contextmanager
def _threads() -> Iterator[None]:
    """Restore the number of threads, which FAISS and torch share on Linux."""
    import faiss

    before = faiss.omp_get_max_threads()
    try:
        yield
    finally:
        if faiss.omp_get_max_threads() != before:
            faiss.omp_set_num_threads(before)
