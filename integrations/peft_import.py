"""PEFT's adapter folders as memories: PROMPT_TUNING as vectors, CARTRIDGE and PREFIX_TUNING as keys and values.

`peft_adapter` exports. An adapter of keys and values is a cache: each position has, layer by layer, keys then values, each as
(heads, width). Its keys are turned to places 0, 1, …, and prompts go on behind them.

Letters: T positions of an adapter, M of them in the memory, L layers, H key/value heads, E width of a head.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memvec.arguments import anything, checked
from memvec.errors import FingerprintError, NotFoundError, UnsupportedModelError, UsageError
from memvec.formats import fields, keys_values, limits
from memvec.formats.refusal import Refusal
from memvec.identity.fingerprint import check_fingerprint, check_model
from memvec.kv.rotation import rotation_of
from memvec.kv.selection import Selection
from memvec.lm.adapters import unwrapped
from memvec.lm.compat import cache_argument, cache_of, empty_cache, recurrent
from memvec.lm.device import device_of
from memvec.memory.memory import KVPart, Memory
from memvec.types import Fingerprint

CONFIG, WEIGHTS, ORIGIN = "adapter_config.json", "adapter_model.safetensors", "memvec.json"
PICKLE = "adapter_model.bin"
KEY = "prompt_embeddings"  # the one tensor of every adapter that PEFT puts before prompts
ORIGIN_FORMAT = "memvec.adapter/1"
FLOATS = ("F64", "F32", "F16", "BF16")


def import_prompt_tuning(
    folder: str | Path, fingerprint: Fingerprint | None = None, before: int | None = None
) -> Memory:
    """Load the memory in a PROMPT_TUNING adapter. If `export_prompt_tuning` wrote it, the memory is the same to the bit.

    An adapter that PEFT trained or saved again has no memvec.json. Its vectors become one part, rounded to float16.

    Args:
        folder: The adapter.
        fingerprint: The fingerprint of the adapter's base model (`memvec.fingerprint`). Needed without memvec.json.
        before: How many of the adapter's first vectors stand before the memory, for BOS and template. Needed for adapters that
            memvec did not write: 0 if all were trained.

    Returns:
        The memory, without the vectors before it.

    Raises:
        NotFoundError: A file is missing.
        UsageError: The adapter is of another kind or damaged, or `fingerprint` or `before` is missing.
        FingerprintError: The adapter belongs to another model.
    """
    adapter = _Adapter.open(folder, fingerprint, "PROMPT_TUNING")
    rows = adapter.read(adapter.owner.width, limits.VECTORS)
    with np.errstate(over="ignore"):
        vectors = rows.numpy().astype(np.float16)
    if not np.isfinite(vectors).all():
        raise adapter.unfit("values outside the range of float16")
    first = adapter.first(before, len(vectors))
    sizes = adapter.origin.parts if adapter.origin else [len(vectors) - first]
    parts = np.split(vectors[first:], np.cumsum(sizes)[:-1])
    return Memory(adapter.documents, tuple(parts), adapter.owner)


@checked(model=anything)
def import_cartridge(
    folder: str | Path,
    model: Any,
    tokenizer: Any,
    fingerprint: Fingerprint | None = None,
    before: int | None = None,
) -> Memory:
    """Load the memory in a CARTRIDGE or PREFIX_TUNING adapter: keys and values, rounded to float16.

    It gives the answers that PEFT gives with the adapter, if prompts have the same tokens before the memory. All documents of
    an adapter become one memory.

    Args:
        folder: The adapter.
        model: Its base model, also inside PEFT's wrapper. Keys are turned back with the model's own rotation.
        tokenizer: The model's tokenizer.
        fingerprint: As for `import_prompt_tuning`.
        before: How many of the adapter's first positions stand before the memory, for BOS and template. Needed without
            memvec.json: 0 if all were trained. memvec puts BOS and template before the memory anew.

    Returns:
        The memory, without the positions before it.

    Raises:
        NotFoundError: A file is missing.
        UsageError: The adapter is of another kind or damaged, or `fingerprint` or `before` is missing.
        FingerprintError: The adapter belongs to another model.
        UnsupportedModelError: The model has no keys and values, or its layers have them in different shapes.
    """
    adapter = _Adapter.open(folder, fingerprint, "CARTRIDGE", "PREFIX_TUNING")
    check_model(model, tokenizer, adapter.owner, allow_adapters=True)
    model = unwrapped(model)
    if recurrent(model):
        raise UnsupportedModelError(f"{model.config.model_type} has a state of fixed size instead of keys and values")
    one = torch.zeros(1, 1, dtype=torch.long, device=device_of(model.get_input_embeddings()))
    with torch.no_grad():
        output = model.base_model(input_ids=one, use_cache=True, **{cache_argument(model): empty_cache()})
    cache = cache_of(output)
    heads, _, width = one_shape(model, cache)
    layers = len(cache.layers)
    rows = adapter.read(2 * layers * heads * width, limits.KV_ROWS // (layers * heads))
    first = adapter.first(before, len(rows))
    tokens = adapter.origin.tokens if adapter.origin else len(rows) - first
    kept = _kept(model, rows.view(len(rows), layers, 2, heads, width), first, tokens)
    try:
        stored = keys_values.checked(kept.stored(16))
    except Refusal as error:
        raise adapter.unfit(str(error)) from error
    return Memory(adapter.documents, (), adapter.owner, {}, ((KVPart(tokens, stored),),))


def one_shape(model: Any, cache: Any) -> tuple[int, int, int]:
    """(heads, positions, width) of the keys and values of all layers. UnsupportedModelError if they differ."""
    shapes = {tuple(part.shape) for layer in cache.layers for part in (layer.keys, layer.values)}
    if len(shapes) != 1:
        raise UnsupportedModelError(
            f"{model.config.model_type} keeps keys and values of different shapes ({sorted(shapes)}), which a PEFT "
            "prefix cannot hold",
            "Use prompt tuning",
        )
    _, heads, positions, width = shapes.pop()
    return heads, positions, width


def _kept(model: Any, rows: Tensor, first: int, tokens: int) -> Selection:
    """The rows (T, L, 2, H, E) of an adapter from place `first` on, turned back as if each stood at position 0."""
    device = device_of(model.get_input_embeddings())
    rotation, places = rotation_of(model), torch.arange(first, len(rows), device=device)
    _, layers, _, heads, width = rows.shape
    keys, values = rows[first:].to(device).permute(2, 1, 3, 0, 4).reshape(2, layers, -1, width)  # (L, H·M, E)
    if rotation.movable:
        keys = torch.stack([rotation.turned(n, of_layer, -places.repeat(heads)) for n, of_layer in enumerate(keys)])
    return Selection(
        tokens,
        len(places),
        torch.full((layers, heads), len(places)),
        (len(rows) - places).repeat(layers * heads),
        keys.flatten(0, 1),
        values.flatten(0, 1),
    )


@dataclass(frozen=True, slots=True)
class _Origin:
    """What memvec.json says of an adapter that memvec wrote."""

    owner: Fingerprint
    documents: tuple[str, ...]
    before: int  # positions before the memory
    parts: list[int]  # positions of each of its parts
    tokens: int  # N, of the text that keys and values stand for


@dataclass(frozen=True, slots=True)
class _Adapter:
    """An adapter folder."""

    folder: Path
    config: dict[str, Any]
    owner: Fingerprint
    origin: _Origin | None

    @classmethod
    def open(cls, folder: str | Path, fingerprint: Fingerprint | None, *kinds: str) -> _Adapter:
        """Read all but the weights of an adapter of one of these `kinds`. NotFoundError, UsageError, FingerprintError."""
        folder = Path(folder)
        config = _json(folder / CONFIG)
        if config.get("peft_type") not in kinds:
            raise UsageError(
                f"{str(folder)!r} is a {config.get('peft_type')} adapter, expected {' or '.join(kinds)}. PROMPT_TUNING is "
                "imported by import_prompt_tuning, CARTRIDGE and PREFIX_TUNING are by import_cartridge."
            )
        origin = _parse_origin(folder, _json(folder / ORIGIN)) if (folder / ORIGIN).exists() else None
        if origin and fingerprint is not None:
            check_fingerprint(fingerprint, origin.owner)
        owner = origin.owner if origin else fingerprint
        if owner is None:
            raise UsageError(
                f"{str(folder)!r} has no {ORIGIN}, so its model is not known. Pass fingerprint="
                "memvec.fingerprint(model)."
            )
        return cls(folder, config, owner, origin)

    @property
    def documents(self) -> tuple[str, ...]:
        """Their names. That of the folder, if no others are known."""
        return self.origin.documents if self.origin else (self.folder.name,)

    def read(self, width: int, most: int) -> Tensor:
        """(T, width) float32, with at most so many positions. NotFoundError, UsageError."""
        from safetensors import SafetensorError, safe_open

        file = self.folder / WEIGHTS
        if not file.is_file():
            why = f"{PICKLE} may run any code when it is read" if (self.folder / PICKLE).exists() else "it is missing"
            raise NotFoundError(
                f"no {WEIGHTS} in {str(self.folder)!r}, the only format that is read: {why}. Save it as safetensors."
            )
        try:
            with safe_open(file, "pt") as opened:
                found = opened.get_slice(KEY) if KEY in opened.keys() else None  # noqa: SIM118 - not a dict
                shape = found.get_shape() if found else []
                if found is None or len(shape) != 2 or not 0 < shape[0] <= most or shape[1] != width:
                    raise UsageError(
                        f"{str(file)!r} holds {tuple(shape) if found else 'nothing'} as {KEY!r}, expected (positions, {width}), "
                        f"with 1 to {most} positions. Pass what belongs to its base model."
                    )
                if found.get_dtype() not in FLOATS:
                    raise UsageError(
                        f"{str(file)!r} holds {found.get_dtype()} numbers, expected one of {', '.join(FLOATS)}. Save it again."
                    )
                numbers: Tensor = opened.get_tensor(KEY).float()
                return numbers
        except SafetensorError as error:
            raise UsageError(f"{str(file)!r} is damaged ({error}). Export it again.") from error

    def first(self, given: int | None, there: int) -> int:
        """The first of its `there` positions that is the memory's, as passed or noted. UsageError, FingerprintError."""
        name, noted = repr(str(self.folder)), self._noted_before()
        if self.origin and (total := self.origin.before + sum(self.origin.parts)) != there:
            raise UsageError(f"{name} has {there} positions, {ORIGIN} says {total}. Export it again.")
        if noted is None and given is None:
            raise UsageError(
                f"{name} does not say how many of its {there} positions stand before the memory, for BOS and template. "
                "Pass before=0 if all of them were trained, else their number."
            )
        number = noted if given is None else given
        if type(number) is not int or not 0 <= number < there or noted not in (None, number):
            expected = f"{noted}, as it says itself" if noted is not None else f"0 to {there - 1}"
            raise UsageError(f"before is {number!r} for {name}, which has {there} positions; expected {expected}.")
        return number

    def _noted_before(self) -> int | None:
        """The number of positions before the memory, if memvec wrote it down. FingerprintError for another model's."""
        if self.origin:
            return self.origin.before
        noted = _noted(self.config)
        if noted is not None and noted[1] != self.owner.id:
            raise FingerprintError([("fingerprint", noted[1], self.owner.id)])
        return noted[0] if noted is not None else None

    def unfit(self, why: str) -> UsageError:
        """The error for numbers that a memory cannot have."""
        return UsageError(f"{str(self.folder / WEIGHTS)!r} holds {why}, so it cannot become a memory.")


def _noted(config: dict[str, Any]) -> tuple[int, str] | None:
    """(vectors before the memory, fingerprint id) as `_note` wrote them; None if memvec did not write the adapter."""
    try:
        note = json.loads(config.get("prompt_tuning_init_text") or "")
        if note["format"] == ORIGIN_FORMAT and type(note["before"]) is int and type(note["fingerprint"]) is str:
            return note["before"], note["fingerprint"]
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return None


def _parse_origin(folder: Path, origin: dict[str, Any]) -> _Origin:
    """What memvec.json says. UsageError."""
    try:
        if origin["format"] != ORIGIN_FORMAT:
            raise UsageError(f"{ORIGIN} is {origin['format']!r}, this memvec reads {ORIGIN_FORMAT!r}. Upgrade memvec.")
        before, *parts = (int(size) for size in (origin["before"], *origin["parts"]))
        tokens = int(origin.get("tokens", sum(parts)))
        if min(before, tokens, *parts) < 0:
            raise ValueError("a count is negative")
        if tokens > limits.KV_POSITIONS:
            raise ValueError(f"{tokens} tokens")
        documents = tuple(fields.several(origin, "documents", str))
        return _Origin(fields.fingerprint(origin["fingerprint"]), documents, before, parts, tokens)
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{str(folder / ORIGIN)!r} is damaged ({error}). Export it again.") from error


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise NotFoundError(f"no {file.name} in {str(file.parent)!r}, expected a PEFT adapter. Pass its folder.")
    if file.stat().st_size > limits.MANIFEST_BYTES:
        raise UsageError(
            f"{str(file)!r} is over {limits.MANIFEST_BYTES:,} bytes, too large for an adapter. Export it again."
        )
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{str(file)!r} is damaged ({error}). Export it again.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{str(file)!r} holds no JSON object. Export it again.")
    return value
