"""What happens to a record that decodes to other bytes than were packed: each rung, and what is said when none helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import memvec
from memvec.decoding import greedy as module
from memvec.decoding.reader import Reader
from memvec.errors import ReconstructionError
from memvec.identity.runtime import Runtime
from memvec.lm.attention import NAME
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load

REAL = module.decode
Wrong = Callable[[Any, int], int | None]  # (model, rows decoded together) -> the position to spoil, None for none


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[Wrong], None]:
    """Make decoding give a wrong token for the first record of each call."""

    def apply(wrong: Wrong) -> None:
        def decode(
            lm: Any, vectors: Any, lengths: Any, corrections: Any, batch: int | None, *rest: Any
        ) -> list[list[int]]:
            rows = REAL(lm, vectors, lengths, corrections, batch, *rest)
            place = wrong(lm, batch)
            if place is not None:
                rows[0][place] = (rows[0][place] + 1) % lm.vocabulary
            return rows

        monkeypatch.setattr(module, "decode", decode)

    return apply


def test_a_record_that_is_wrong_in_a_batch_is_decoded_alone(
    few: Path, spoil: Any, tmp_path: Path, documents: dict[str, bytes]
) -> None:
    assert memvec.unpack(few, tmp_path / "whole").escalated == 0
    spoil(lambda lm, batch: 2 if batch != 1 else None)
    report = memvec.unpack(few, tmp_path / "out")
    assert report.escalated == 1 and report.documents == 3
    for name in report.files:
        assert (tmp_path / "out" / name).read_bytes() == documents[name]
    assert memvec.cat(few, "prose.txt") == documents["prose.txt"]
    checked = memvec.verify(few, decode=True)
    assert checked.ok and checked.escalated == 1


def test_what_is_wrong_alone_too_is_decoded_in_canonical_numerics(
    few: Path, spoil: Any, tiny: str, documents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    def load_on(runtime: Runtime, device: str | None) -> FrozenLM:
        loads.append(device)
        lm = load(Path(tiny))
        if device != "cpu":
            lm.model.set_attn_implementation("eager")
        return lm

    monkeypatch.setattr(Runtime, "load", load_on)
    assert memvec.cat(few, "prose.txt") == documents["prose.txt"]
    assert loads == [None]  # the second model is loaded only when it is needed
    spoil(lambda lm, batch: 0 if lm.model.config._attn_implementation != NAME else None)
    reader = Reader(memvec.open(few, batch=16))
    live = reader.store.documents()
    for name in ("prose.txt", "crlf.txt"):
        ((_, pieces),) = reader.documents([live[name]])
        assert b"".join(piece.data for piece in pieces) == documents[name]
        assert not any(piece.error for piece in pieces)
    assert loads == [None, None, "cpu"]  # and once
    assert reader.retries.helped == {"in float32 on the CPU": 2}


def test_no_second_model_is_loaded_where_the_first_is_canonical(
    few: Path, spoil: Any, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []

    def load_on(runtime: Runtime, device: str | None) -> FrozenLM:
        loads.append(device)
        return load(Path(tiny))

    monkeypatch.setattr(Runtime, "load", load_on)
    spoil(lambda lm, batch: 5)
    with pytest.raises(ReconstructionError) as caught:
        memvec.cat(few, "prose.txt")
    assert loads == [None]
    assert caught.value.tried == ("in a batch of 16", "in a batch of one")
    with pytest.raises(ReconstructionError) as caught:
        memvec.cat(few, "prose.txt", batch=1)
    assert caught.value.tried == ("in a batch of one",)


def test_the_error_names_the_token_where_attempts_differ(few: Path, spoil: Any) -> None:
    spoil(lambda lm, batch: 7 if batch != 1 else 4)
    with pytest.raises(ReconstructionError, match="First token in doubt: 4; there the attempts differ") as caught:
        memvec.cat(few, "prose.txt")
    error = caught.value
    assert error.position == 4 and error.document == "prose.txt" and len(error.record) == 12
    assert "fingerprint is the store's" in error.verdict and error.verdict in str(error)
    assert "on_error='partial'" in str(error)


def test_the_error_names_the_token_whose_lead_is_too_small(few: Path, spoil: Any) -> None:
    """All attempts agree: what stands out is that a wrong token does not lead by what was certified."""
    spoil(lambda lm, batch: 3)
    with pytest.raises(ReconstructionError, match=r"it leads by -.* when it was certified") as caught:
        memvec.cat(few, "prose.txt")
    assert caught.value.position == 3


def test_the_error_says_when_no_token_stands_out(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens are those that were certified, and their text is not: as with another tokenizer behind the same ids."""
    monkeypatch.setattr(FrozenLM, "decode", lambda self, ids: "something else")
    with pytest.raises(ReconstructionError, match="No token stands out") as caught:
        memvec.cat(few, "prose.txt")
    assert caught.value.position is None


def test_what_is_canonical(tiny: str, tiny_lm: Any) -> None:
    from memvec.decoding.escalation import is_canonical

    assert is_canonical(tiny_lm)
    assert not is_canonical(load(Path(tiny), torch.bfloat16))
    eager = load(Path(tiny))
    eager.model.set_attn_implementation("eager")
    assert not is_canonical(eager)
