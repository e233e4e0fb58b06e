"""The payload of a context record: its report, a zstd frame of canonical JSON. SPEC §5.4."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from memvec.formats import canonical, fields, limits, raw
from memvec.formats.refusal import Refusal
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
    """Encode a report. Refusal for one that a reader would refuse."""
    value = asdict(conditioning)
    _check(value)
    text = canonical.dumps(value)
    if len(text) > limits.REPORT_BYTES:
        raise Refusal("frame-too-large", f"the conditioning report is {len(text)} bytes, over {limits.REPORT_BYTES}")
    return raw.compress(text)


def decode(frame: bytes) -> Conditioning:
    """Decode a report. Unknown keys are ignored; Refusal for anything else that is wrong."""
    value = canonical.loads(raw.decompress(frame, limits.REPORT_BYTES))
    if not isinstance(value, dict) or not set(FIELDS) <= set(value):
        raise fields.bad(f"the conditioning report must have {', '.join(FIELDS)}")
    _check(value)
    return Conditioning(**{name: value[name] for name in FIELDS})


def _check(value: Mapping[str, Any]) -> None:
    for name, types in FIELDS.items():
        found = value[name]
        # By exact type: True is no count, and a count is no measurement.
        if type(found) not in types:
            wanted = " or ".join("null" if t is type(None) else t.__name__ for t in types)
            raise fields.bad(f"{name} of the conditioning report is {reprlib.repr(found)}, expected {wanted}")
        if type(found) is float and not math.isfinite(found):
            raise Refusal("not-finite", f"{name} of the conditioning report is {found}, expected a finite number")
    fields.within(value["held_out"], "held_out of the conditioning report", limits.MOST_COUNT)
    fields.within(value["seed"], "seed of the conditioning report", limits.MOST_INTEGER, limits.LEAST_INTEGER)
