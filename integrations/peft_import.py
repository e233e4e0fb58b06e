"""PEFT's PROMPT_TUNING adapter folders as memories. `peft_adapter` exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from memvec.errors import FingerprintError, NotFoundError, UsageError
from memvec.formats import fields, limits
from memvec.identity.fingerprint import check_fingerprint
from memvec.memory.memory import Memory
from memvec.types import Fingerprint

CONFIG, WEIGHTS, ORIGIN = "adapter_config.json", "adapter_model.safetensors", "memvec.json"
KEY = "prompt_embeddings"  # the one tensor of every adapter that PEFT puts before prompts
ORIGIN_FORMAT = "memvec.adapter/1"


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
    folder = Path(folder)
    config = _json(folder / CONFIG)
    if config.get("peft_type") != "PROMPT_TUNING":
        raise UsageError(
            f"{str(folder)!r} is a {config.get('peft_type')} adapter, expected PROMPT_TUNING: keys and values cannot "
            "be turned back into vectors. Export the memory as PROMPT_TUNING."
        )
    origin = _json(folder / ORIGIN) if (folder / ORIGIN).exists() else None
    if origin is None:
        if fingerprint is None:
            raise UsageError(
                f"{str(folder)!r} has no {ORIGIN}, so its model is not known. Pass fingerprint="
                "memvec.fingerprint(model)."
            )
        vectors = _read_vectors(folder, fingerprint.width)
        return Memory(
            (folder.name,), (vectors[_before(folder, config, fingerprint, before, len(vectors)) :],), fingerprint
        )
    owner, documents, sizes = _parse_origin(folder, origin)
    if fingerprint is not None:
        check_fingerprint(fingerprint, owner)
    if before not in (None, sizes[0]):
        raise UsageError(f"before is {before}, {ORIGIN} in {str(folder)!r} says {sizes[0]}. Leave it out.")
    vectors = _read_vectors(folder, owner.width)
    if sum(sizes) != len(vectors):
        raise UsageError(f"{str(folder)!r} has {len(vectors)} vectors, {ORIGIN} says {sum(sizes)}. Export it again.")
    _, *parts = np.split(vectors, np.cumsum(sizes)[:-1])
    return Memory(documents, tuple(parts), owner)


def _before(folder: Path, config: dict[str, Any], owner: Fingerprint, given: int | None, there: int) -> int:
    """The number of an adapter's vectors before its memory, as passed or noted. UsageError, FingerprintError."""
    noted = _noted(config)
    if noted is None and given is None:
        raise UsageError(
            f"{str(folder)!r} does not say how many of its {there} vectors stand before the memory, for BOS and template. "
            "Pass before=0 if all of them were trained, else their number."
        )
    if noted is not None and noted[1] != owner.id:
        raise FingerprintError([("fingerprint", noted[1], owner.id)])
    number = given if given is not None else noted[0] if noted is not None else 0
    if type(number) is not int or not 0 <= number < there or (noted is not None and number != noted[0]):
        expected = f"{noted[0]}, as it says itself" if noted is not None else f"0 to {there - 1}"
        raise UsageError(f"before is {number!r} for {str(folder)!r}, which has {there} vectors; expected {expected}.")
    return number


def _noted(config: dict[str, Any]) -> tuple[int, str] | None:
    """(vectors before the memory, fingerprint id) as `_note` wrote them; None if memvec did not write the adapter."""
    try:
        note = json.loads(config.get("prompt_tuning_init_text") or "")
        if note["format"] == ORIGIN_FORMAT and type(note["before"]) is int and type(note["fingerprint"]) is str:
            return note["before"], note["fingerprint"]
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return None


def _read_vectors(folder: Path, width: int) -> Any:
    """(virtual tokens, D) float16. NotFoundError, UsageError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS
    if not file.is_file():
        raise NotFoundError(f"no {WEIGHTS} in {str(folder)!r}, the only format that is read. Save it as safetensors.")
    try:
        found = load_file(file).get(KEY)
    except SafetensorError as error:
        raise UsageError(f"{str(file)!r} is damaged ({error}). Export it again.") from error
    if found is None or found.ndim != 2 or found.shape[1] != width:
        shape = "nothing" if found is None else tuple(found.shape)
        raise UsageError(
            f"{str(file)!r} holds {shape} as {KEY!r}, expected (positions, {width}). Pass the fingerprint of its base model."
        )
    with np.errstate(over="ignore"):
        vectors = found.float().numpy().astype(np.float16)
    if not np.isfinite(vectors).all():
        raise UsageError(f"{str(file)!r} holds values outside the range of float16, so it cannot become a memory.")
    return vectors


def _parse_origin(folder: Path, origin: dict[str, Any]) -> tuple[Fingerprint, tuple[str, ...], list[int]]:
    """(fingerprint, document names, vectors before the memory and of each of its parts). UsageError."""
    try:
        if origin["format"] != ORIGIN_FORMAT:
            raise UsageError(f"{ORIGIN} is {origin['format']!r}, this memvec reads {ORIGIN_FORMAT!r}. Upgrade memvec.")
        sizes = [int(size) for size in (origin["before"], *origin["parts"])]
        if min(sizes) < 0:
            raise ValueError("a count is negative")
        owner = fields.fingerprint(origin["fingerprint"])
        return owner, tuple(fields.several(origin, "documents", str)), sizes
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
