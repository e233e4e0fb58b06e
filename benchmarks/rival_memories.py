"""Memories of keys and values that others would make, in a store in place of memvec's, so that they are judged alike.

PEFT's CARTRIDGE begins with the keys and values of the first M tokens that it reads, at the places 0 … M-1. The question
goes on at M. Its first token is not trained, because models look there when they look for nothing. Here the tokens before
every memory, BOS or the start of the chat template, are that token. They are in no memory, and nothing trains them.

kvpress' methods choose which keys and values are kept, see kv_rivals.py. They read a document behind the same tokens as
memvec, which are kept and not counted.

Letters: L layers, H key/value heads, M positions, N tokens of the document.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch

from memvec.checkpoints.resolve import resolve
from memvec.kv.choose import positions_for
from memvec.kv.compact import compact, gathered
from memvec.kv.refine import RefineTask
from memvec.kv.scores import read
from memvec.kv.selection import Selection
from memvec.lm.device import pick_device, pick_dtype
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load
from memvec.packing.kv import KEYWORD_QUESTIONS, SENTENCE_ANSWERS, Compacting
from memvec.packing.plan import Window
from memvec.settings import KVSettings
from memvec.store.transaction import changing
from memvec.templates.template import frame
from memvec.training.segments import Segment
from memvec.types import FitReport

SCRIPT = Path(__file__).with_name("kv_rivals.py")
Make: TypeAlias = Callable[[FrozenLM, Sequence[Window]], tuple[list[Selection], int]]  # and the positions trained on


def replace_memories(store: Path, model: str, texts: Mapping[str, str], settings: KVSettings, make: Make) -> None:
    """Replace the kv memories in a store by those that `make` makes of the same windows."""
    device = pick_device(None)
    lm = load(resolve(model), pick_dtype(None, device), device)
    with changing(store) as transaction:
        opened = transaction.store
        records = [opened.record(ref) for stored in opened.documents().values() for ref in stored.kv]
        windows = []
        for record in records:
            text = texts[record.document.name].encode()[record.start : record.start + record.length].decode()
            windows.append(Window(record.document, Segment(record.start, record.length, tuple(lm.encode(text))), text))
        begun = time.perf_counter()
        made, positions = make(lm, windows)
        report = FitReport(
            steps=settings.refine,
            token_steps=positions // len(windows),
            seconds=(time.perf_counter() - begun) / len(windows),
        )
        transaction.commit(
            [
                replace(record, tokens=one.tokens, kv=one.stored(settings.bits), report=report)
                for record, one in zip(records, made, strict=True)
            ]
        )


def cartridges(settings: KVSettings) -> Make:
    """PEFT's cartridges, trained as `memvec pack` trains: with the same questions, steps and rates."""

    def make(lm: FrozenLM, windows: Sequence[Window]) -> tuple[list[Selection], int]:
        starts = [first_tokens(lm, window.segment.ids, settings.ratio) for window in windows]
        if not settings.refine:
            return starts, 0
        pack: Any = SimpleNamespace(questions=(), generate=None)  # all that lessons need of a pack
        compacting, made, positions = Compacting(lm, settings, "", pack), [], []
        for window, start in zip(windows, starts, strict=True):
            asked = compacting.asking.about(window, KEYWORD_QUESTIONS, SENTENCE_ANSWERS)
            made += compacting.refiner.run([RefineTask(window.segment.ids, start, asked)], positions.append)
        return made, sum(positions)

    return make


def first_tokens(lm: FrozenLM, ids: Sequence[int], ratio: float) -> Selection:
    """All keys and values of the first M of N tokens, as a document of their own."""
    (start,) = compact(lm, [ids[: positions_for(len(ids), ratio)]], ratio=1, budget="even", score="norm")
    return start


def chosen_by(settings: KVSettings, model: str, press: str, python: str) -> Make:
    """Memories of the keys and values that a press of kvpress keeps. `python` is an interpreter that has kvpress."""

    def make(lm: FrozenLM, windows: Sequence[Window]) -> tuple[list[Selection], int]:
        texts = [window.segment.ids for window in windows]
        positions = [positions_for(len(ids), settings.ratio) for ids in texts]
        asked = {
            "model": str(resolve(model)),
            "press": press,
            "before": frame(lm.tokenizer, "").before,
            "texts": texts,
            "positions": positions,
        }
        said = subprocess.run([python, SCRIPT], input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=True)
        return [
            kept_rows(lm, ids, count, kept)
            for ids, count, kept in zip(texts, positions, json.loads(said.stdout), strict=True)
        ], 0

    return make


def kept_rows(lm: FrozenLM, ids: Sequence[int], positions: int, kept: Sequence[Sequence[Sequence[int]]]) -> Selection:
    """The rows of a document whose places are `kept`, by layer and head."""
    found = read(lm, [ids], "norm")
    chosen = torch.zeros(len(kept), 1, len(kept[0]), len(ids), dtype=torch.bool, device=lm.device)
    for layer, heads in enumerate(kept):
        for head, places in enumerate(heads):
            chosen[layer, 0, head, places] = True
    (selection,) = gathered(lm, found, chosen, [positions])
    return selection
