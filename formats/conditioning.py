"""The payload of a context record: its measured report, as one zstd frame of canonical JSON. SPEC §5.4."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from memvec.formats import canonical, raw
from memvec.types import Conditioning

FIELDS: dict[str, tuple[type, ...]] = {
    "gain": (float, type(None)),
    "shuffled": (float, type(None)),
    "text": (float, type(None)),
    "harm": (float, type(None)),
    "nll_none": (float, type(None)),
    "nll_text": (float, type(None)),
    "nll_memory": (float, type(None)),
    "held_out": (int,),
    "recipe": (str,),
    "seed": (int,),
}


def encode(conditioning: Conditioning) -> bytes:
    """The frame of a report; ValueError for one that a reader would refuse."""
    value = asdict(conditioning)
    _check(value)
    return raw.compress(canonical.dumps(value))


def decode(frame: bytes) -> Conditioning:
    """The report in a frame: unknown keys are passed over, anything else that is off is a ValueError."""
    value = canonical.loads(raw.decompress(frame))
    if not isinstance(value, dict) or not set(FIELDS) <= set(value):
        raise ValueError(f"the conditioning report does not have the fields {', '.join(FIELDS)}")
    _check(value)
    return Conditioning(**{name: value[name] for name in FIELDS})


def _check(value: Mapping[str, Any]) -> None:
    for name, types in FIELDS.items():
        found = value[name]
        # By exact type: True would pass for a count, and a count for a measurement.
        if type(found) not in types or (type(found) is float and not math.isfinite(found)):
            wanted = " or ".join("null" if t is type(None) else t.__name__ for t in types)
            raise ValueError(f"{name} of the conditioning report is {found!r}, expected {wanted}, finite")
    if value["held_out"] < 0:
        raise ValueError(f"held_out of the conditioning report is {value['held_out']}, expected 0 or more")
