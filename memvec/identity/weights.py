"""Compare the weights of a loaded model with a checkpoint, once for each model object.

The values in memory are compared, not the name they were loaded under. They are compared with the tensors of the files,
cast to the model's dtype. Without files, their digests are compared with a fingerprint, and then the numeric probe decides.
"""

from __future__ import annotations

import ctypes
import functools
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memvec.checkpoints import files as checkpoint
from memvec.checkpoints import traits
from memvec.guard import Lock
from memvec.lm.adapters import is_adapted, modules, replaced
from memvec.types import Fingerprint

SAMPLED = 64  # parameters on a GPU of which a Mark holds a value; on a CPU it holds some bytes of every one
SAMPLE_BYTES = 16
MOST_COMPARED = 1 << 28  # up to so many values are compared with files; of a larger model, some rows of each tensor
BLOCKS = 4  # blocks of rows that are compared, spread over a tensor
# Tensors that get more rows when a model is made larger for a tokenizer with more tokens.
RESIZED = (*checkpoint.EMBEDDING_NAMES, "lm_head.weight", "lm_head.bias", "embed_out.weight")
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


@dataclass(frozen=True, slots=True)
class Compared:
    """The result of comparing a model in memory with files: names of tensors."""

    differing: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()  # of another shape or kind of number: quantised, or packed in another way
    more: tuple[str, ...] = ()  # missing in the files
    fewer: tuple[str, ...] = ()  # missing in the model
    renamed: bool = False  # the model has as many values as the files, under other names

    @property
    def same(self) -> bool:
        """Are all weights the same as in the files?"""
        return not (self.differing or self.unlike or self.more or self.fewer)


class Mark:
    """Detects changes of a model's parameters, by their addresses, version counters and some of their bytes.

    PEFT merges adapters through `data`, which changes the bytes but no version counter.
    """

    def __init__(self, model: Any) -> None:
        """Note the state of the parameters of `model`, without keeping them in memory."""
        values = _values(model)
        near = [value for value in values if _plain(value) and value.device.type == "cpu" and value.is_contiguous()]
        self._places = [_place(value) for value in values]
        self._addresses = [_middle(value) for value in near if value.numel()]
        self._bytes = self._read()
        self._far = _some_of(values)

    def fits(self, model: Any) -> bool:
        """Are the parameters unchanged? Takes well under a millisecond on a CPU."""
        values = _values(model)
        if [_place(value) for value in values] != self._places:
            return False
        # Last, because the bytes may be read only while the same tensors are in their places.
        return self._read() == self._bytes and _some_of(values) == self._far

    def _read(self) -> bytes:
        return b"".join([ctypes.string_at(*place) for place in self._addresses])


_seen: weakref.WeakKeyDictionary[Any, dict[str, Mark]] = weakref.WeakKeyDictionary()
looking = Lock()  # held while a thread compares weights


def looked_at(model: Any, expected: Fingerprint) -> bool:
    """Were a model's weights compared with `expected` and found equal, and have they not changed since?"""
    mark = _seen.get(model, {}).get(expected.weights)
    return mark is not None and mark.fits(model)


def remember(model: Any, expected: Fingerprint, mark: Mark) -> None:
    """Note that a model's weights are those of `expected` as long as they fit `mark`."""
    _seen.setdefault(model, {})[expected.weights] = mark


def with_files(model: Any, folder: Path) -> Compared:
    """Compare a model's parameters with the checkpoint in `folder`, cast as loading casts them."""
    from safetensors import safe_open

    places: dict[str, Any] = {}
    for file in checkpoint.weight_files(folder):
        handle: Any = safe_open(file, "pt")  # maps the file; nothing is read yet
        places |= {
            name: handle.get_slice(name) for name in list(handle.keys()) if not name.endswith(checkpoint.BUFFER_NAMES)
        }
    left, tied = dict(places), set()
    differing: list[str] = []
    unlike: list[str] = []
    more: dict[str, Tensor] = {}
    own, outside = _as_saved(model, parameters(model)), _outside(model)
    share = min(1.0, MOST_COMPARED / max(1, sum(value.numel() for _, value in own)))
    for name, value in own:
        found = next((other for other in _spellings(model, name) if other in places), None)
        if found is None and value.is_meta and _tied_head(model, name):  # accelerate separates tied tensors
            found = checkpoint.embedding_name(list(places))
        if found is None:
            more[name] = value
            continue
        left.pop(found, None)
        tied.add(_address(value))
        if value.is_meta:
            if name not in outside:  # nothing says where it is
                unlike.append(found)
                continue
            value = outside[name]()
        judged = _equal(value, places[found], share, whole_rows=found.endswith(RESIZED))
        if judged is not True:
            (unlike if judged is None else differing).append(found)
    more = {name: value for name, value in more.items() if _address(value) not in tied}
    left = {name: place for name, place in left.items() if not _passed_over(model, name)}
    sizes = sum(value.numel() for value in more.values()), sum(_count(place.get_shape()) for place in left.values())
    return Compared(tuple(differing), tuple(unlike), tuple(more), tuple(left), sizes[0] == sizes[1] > 0)


@torch.no_grad()
def unproven(model: Any, expected: Fingerprint, dtypes: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields of `expected` whose digest the model's parameters do not have in any dtype of `dtypes`.

    The weights may still be right: digests of a rounded checkpoint, or of one with several dtypes, cannot be recomputed.
    """
    every = ("weights", "embedding")
    apart: dict[int, tuple[str, Tensor]] = {}
    for name, value in parameters(model):
        apart.setdefault(_address(value), (name, value))  # a checkpoint may hold tied tensors once or twice
    if any(value.is_meta or not _plain(value) for _, value in apart.values()):
        return every
    tokens = expected.architecture.get("vocab_size")
    own = {n: value[:tokens] if n.endswith(RESIZED) else value for n, value in _as_saved(model, apart.values())}
    if expected.architecture.get("tie_word_embeddings"):
        own.pop("lm_head.weight", None)
    kinds = [name for name in dtypes if name in DTYPES] or list(DTYPES)
    for spelling in range(3):
        spelt = {_spellings(model, name)[spelling]: value for name, value in own.items()}
        table = checkpoint.embedding_name(list(spelt))
        for kind in kinds:
            if table is not None and _digest(table, spelt[table], kind) == expected.embedding:
                found = {name: _digest(name, spelt[name], kind) for name in sorted(spelt)}
                return () if traits.sha256(found) == expected.weights else every[:1]
    return every


def parameters(model: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """(name, parameter) of a model without its adapters. A tied parameter comes once for each of its names."""
    if is_adapted(model):
        inner = model.original_module if replaced(model) else getattr(model, "base_layer", None)
        if inner is not None:
            yield from parameters(inner, prefix)
            return
    for name, value in model._parameters.items():
        if value is not None:
            yield f"{prefix}{name}", value
    for name, module in model._modules.items():
        if module is not None:
            yield from parameters(module, f"{prefix}{name}.")


def _outside(model: Any) -> dict[str, Callable[[], Tensor]]:
    """Functions that read the parameters which accelerate holds outside a model until they are used, by name."""
    found: dict[str, Callable[[], Tensor]] = {}
    for prefix, module in model.named_modules():
        hook = getattr(module, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            if (values := getattr(one, "weights_map", None)) is not None:
                names = [name for name, value in module._parameters.items() if value is not None]
                found |= {f"{prefix}.{name}".lstrip("."): functools.partial(values.__getitem__, name) for name in names}
    return found


def _as_saved(model: Any, parts: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    """Parameters with the names and shapes that transformers saves them in, if it renames or joins them."""
    own = list(parts)
    if any(value.is_meta or not _plain(value) for _, value in own):
        return own
    try:
        from transformers.core_model_loading import revert_weight_conversion

        return list(revert_weight_conversion(model, dict(own)).items())
    except (
        ImportError,
        AttributeError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
    ):  # an older transformers, or no way back
        return own


def _equal(value: Tensor, place: Any, share: float, whole_rows: bool) -> bool | None:
    """Has a tensor the values of the file? None if they cannot be compared."""
    shape, found = place.get_shape(), list(value.shape)
    longer = whole_rows and found[1:] == shape[1:] and found[0] > shape[0]
    if (shape != found and not longer) or not _plain(value):
        return None
    rows = [slice(None)] if not shape or share == 1 else _blocks(shape[0], share)
    for part in rows:
        mine = value.detach()[: shape[0]][part] if shape else value.detach()
        theirs = place[part] if shape else place[...]
        if mine.is_floating_point() != theirs.is_floating_point():
            return None
        kinds = (mine.dtype, torch.bfloat16, torch.float16) if mine.is_floating_point() else (mine.dtype,)
        if not any(torch.equal(theirs.to(kind).to(mine.dtype), mine.cpu()) for kind in kinds):
            return False  # also after rounding
    return True


def _blocks(rows: int, share: float) -> list[slice]:
    """Blocks of rows, spread evenly, that make up about this share of all rows."""
    size = max(1, int(rows * share / BLOCKS))
    starts = {rows * number // BLOCKS for number in range(BLOCKS)}
    return [slice(begin, min(rows, begin + size)) for begin in sorted(starts)]


def _digest(name: str, value: Tensor, kind: str) -> str:
    data: Any = value.detach().to(DTYPES[kind]).cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return checkpoint.digest(memoryview(data), [name, kind, list(value.shape)])


def _spellings(model: Any, name: str) -> list[str]:
    """The three spellings of a parameter's name in checkpoints: as in the model, and without or with its base model's name."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    return [name, name.removeprefix(prefix), prefix + name]


def _passed_over(model: Any, name: str) -> bool:
    """Does transformers ignore this tensor of a checkpoint when it loads this model?"""
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    return _tied_head(model, name) or any(re.search(pattern, name) for pattern in patterns)


def _tied_head(model: Any, name: str) -> bool:
    config = model.config.get_text_config()
    return name.endswith("lm_head.weight") and bool(getattr(config, "tie_word_embeddings", False))


def _values(model: Any) -> list[Tensor]:
    """Every parameter of a model."""
    found = [module.__dict__["_parameters"] for module in modules(model)]
    return [value for values in found for value in values.values() if value is not None]


def _place(value: Tensor) -> tuple[int, int]:
    """The address of a parameter and the number of writes to it, if it has them."""
    try:
        return value.data_ptr(), value._version
    except (RuntimeError, NotImplementedError):  # an inference tensor has no version, a fake tensor no address
        return id(value), 0


def _middle(value: Tensor) -> tuple[int, int]:
    """Address and number of some bytes from the middle of a parameter."""
    size = value.numel() * value.element_size()
    return value.data_ptr() + size // 2, min(SAMPLE_BYTES, size - size // 2)


@torch.no_grad()
def _some_of(values: list[Tensor]) -> list[float]:
    """One number from each of some parameters that are on an accelerator."""
    if all(value.is_cpu for value in values):
        return []
    far: dict[Any, list[Tensor]] = {}
    for value in values:
        if _plain(value) and not value.is_cpu and value.numel():
            far.setdefault((value.device, value.dtype), []).append(value)
    found: list[float] = []
    for group in far.values():
        some = group[:: max(1, len(group) // SAMPLED) | 1]
        found += torch.cat([value.as_strided((1,), (1,), value.storage_offset()) for value in some]).tolist()
    return found


def _plain(value: Tensor) -> bool:
    """Is this a dense tensor with its own memory, and not a substitute made by a quantiser or for several devices?"""
    return type(value) in (Tensor, torch.nn.Parameter) and not value.is_meta and value.layout == torch.strided


def _address(value: Tensor) -> int:
    """A number that is the same for two names of one parameter."""
    return id(value) if value.is_meta or not _plain(value) else value.data_ptr()


def _count(shape: list[int]) -> int:
    return int(torch.Size(shape).numel())
