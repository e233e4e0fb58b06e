"""`memvec.open`: a store with its model, for many calls. The model is found, compared and loaded once.

Every verb that reads a store takes a Runtime in place of a path. A verb that gets a path makes a Runtime for itself.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from memvec.arguments import checked
from memvec.errors import UsageError
from memvec.guard import loading_alone
from memvec.identity.match import find_model, load_found, load_lm
from memvec.identity.verdict import Verdict, stored_identity
from memvec.progress import Progress, Watch, enter, unwatched
from memvec.store.store import Store
from memvec.types import Identity

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from memvec.lm.frozen import FrozenLM

T = TypeVar("T")


class Running(TypedDict, total=False):
    """The device of a verb's model, and the function that is told of its progress."""

    device: str | None
    watch: Watch


class Opening(Running, total=False):
    """The keyword arguments of `memvec.open`. Every verb that reads a store takes them."""

    model: str | None
    batch: int | None


class Runtime:
    """An opened store with its model, which is loaded at the first use and stays loaded. `memvec.open` makes it.

    A Runtime is also a path: `memvec.info(runtime)` reads the same store. Its model stays in memory, also after
    `memvec.unload()`. Threads may share it.

    Args:
        store: The store.
        model: The model by name, folder, GGUF file or hub id; by default the one the store names.
        device: Torch device; by default CUDA where there is one. "auto" also offloads layers that do not fit.
        batch: Records decoded at once; by default 16, on a GPU 1,024.
        watch: Called with a `Progress` now and then.
        allow: The farthest verdict that is accepted. By default only the model that packed the store.

    Example:
        >>> runtime = memvec.open(store, model=model)
        >>> [hit.document for hit in memvec.search(runtime, "the first ferry to the island", k=1)]
        ['harbour.txt']
        >>> memvec.cat(runtime, "harbour.txt")[:11]
        b'The harbour'
    """

    def __init__(
        self,
        store: Store,
        model: str | None = None,
        device: str | None = None,
        batch: int | None = None,
        watch: Watch = unwatched,
        allow: Verdict = Verdict.IDENTICAL,
    ) -> None:
        self.store, self.model, self.device, self.batch = store, model, device, batch
        self.watch, self.allow = watch, allow
        self._of_model: dict[Hashable, Any] = {}
        self._of_store: dict[Hashable, Any] = {}

    def __fspath__(self) -> str:
        """The store's path."""
        return str(self.store.path)

    def __repr__(self) -> str:
        """The call that makes such a Runtime."""
        given = {"model": self.model, "device": self.device, "batch": self.batch}
        shown = "".join(f", {name}={value!r}" for name, value in given.items() if value is not None)
        return f"memvec.open({str(self.store.path)!r}{shown})"

    @property
    def identity(self) -> Identity:
        """The identity of the model that the store was packed with."""
        return stored_identity(self.store.manifest)

    @property
    def folder(self) -> Path:
        """The model's checkpoint, compared with the store's fingerprint. NotFoundError, FingerprintError."""
        return self.model_part("folder", lambda: find_model(self.identity, self.model, self.notify))

    @property
    def lm(self) -> FrozenLM:
        """The model in float32, in which all stores are certified. NotFoundError, FingerprintError, OutOfMemoryError."""
        return self.lm_on(self.device)

    def lm_on(self, device: str | None) -> FrozenLM:
        """The same on another device."""
        return self.model_part(("lm", device), lambda: self.load(device))

    @property
    def loaded(self) -> FrozenLM | None:
        """The model if it is in memory already, else None."""
        return self._of_model.get(("lm", self.device))

    def load(self, device: str | None) -> FrozenLM:
        """Load the model onto a device. `lm` does so once."""
        if self.allow is not Verdict.IDENTICAL:
            return load_lm(self.identity, self.model, device, self.notify, self.allow)
        return load_found(self.folder, self.identity, device, self.notify)

    def notify(self, stage: str) -> None:
        """Tell `watch` of a stage that takes long."""
        enter(stage, Progress(), self.watch)

    def store_part(self, key: Hashable, make: Callable[[], T]) -> T:
        """Call `make` the first time, and cache its result until `refresh`."""
        return _once(self._of_store, key, make)

    def model_part(self, key: Hashable, make: Callable[[], T]) -> T:
        """Call `make` the first time, and cache its result."""
        return _once(self._of_model, key, make)

    def refresh(self) -> None:
        """Read the newest generation of the store. The model stays loaded."""
        self.store = Store.open(self.store.path)
        self._of_store = {}

    def reading(self, store: Store, watch: Watch | None = None, allow: Verdict = Verdict.IDENTICAL) -> Runtime:
        """A Runtime with the same model for the same store, opened in another way. `allow` as in the constructor."""
        made = copy.copy(self)
        made.store, made.watch, made.allow, made._of_store = store, watch or self.watch, allow, {}
        if allow is not self.allow:
            made._of_model = {}
        return made


@checked()
def open_runtime(
    path: str | Path,
    *,
    model: str | None = None,
    device: str | None = None,
    batch: int | None = None,
    watch: Watch = unwatched,
) -> Runtime:
    """Open a store for many calls, so that its model is found, compared with the store and loaded only once.

    Verbs take what this returns in place of the store's path: `cat`, `read`, `unpack`, `verify`, `search`, `Searcher`,
    `load_memory`, `generate`, `compare`, `evaluate`, `build_index`, `diff`. Nothing is loaded before a verb needs it.

    Args:
        path: The store.
        model: The model by name, folder, GGUF file or hub id; by default the one the store names.
        device: Torch device; by default CUDA where there is one. "auto" also offloads layers that do not fit.
        batch: Records decoded at once; by default 16, on a GPU 1,024.
        watch: Called with a `Progress` now and then.

    Returns:
        The store with its model. It reads the store as it is now; `refresh` reads it again.

    Raises:
        NotFoundError: There is no store.
        StoreDamagedError: The manifest is damaged.
        FormatTooNewError: A newer memvec made the store.
        ReadError: The system refuses to read the manifest.

    Example:
        >>> runtime = memvec.open(store, model=model)
        >>> sum(len(memvec.cat(runtime, row.name)) == row.bytes for row in memvec.documents(store))
        2
    """
    return Runtime(Store.open(path), model, device, batch, watch)


def runtime_of(
    store: str | Path | Store | Runtime, reading: Store | None = None, **opening: Unpack[Opening]
) -> Runtime:
    """The Runtime of a verb's first argument. UsageError for keyword arguments beside a Runtime.

    `reading` is the same store, where the verb opened it in its own way.
    """
    if not isinstance(store, Runtime):
        return Runtime(reading or (store if isinstance(store, Store) else Store.open(store)), **opening)
    given = [name for name, value in opening.items() if value is not None]
    if given:
        raise UsageError(
            f"{' and '.join(given)} cannot be changed for an opened store. Pass {given[0]}=… to memvec.open, or the path "
            "of the store."
        )
    return store.reading(reading) if reading is not None else store


def path_of(store: str | Path | Store | Runtime) -> Path:
    """The path of a store that a verb got as its first argument."""
    return store.path if isinstance(store, Store) else Path(os.fspath(store))


def _once(made: dict[Hashable, Any], key: Hashable, make: Callable[[], T]) -> T:
    if key not in made:
        with loading_alone():  # threads that come first wait for one of them
            if key not in made:
                made[key] = make()
    found: T = made[key]
    return found
