"""Cut a sequence into pieces of one size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar


class Sliceable(Protocol):
    """A list, a tuple, bytes, an array or a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice, /) -> Any: ...


Items = TypeVar("Items", bound=Sliceable)


def slices(count: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover `count` items in order. The last one may be shorter."""
    return (slice(begin, min(begin + size, count)) for begin in range(0, count, size))


def chunked(items: Items, size: int) -> Iterator[Items]:
    """Pieces of `size` items in order. The last one may be shorter; without items there is none."""
    return (items[part] for part in slices(len(items), size))
