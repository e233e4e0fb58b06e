"""Cartridges as PEFT begins them: the keys and values of a document's first tokens, trained with memvec's own lessons.

PEFT's CARTRIDGE takes the first M tokens of what it reads, at the places 0 … M-1. The question goes on at M. Its first token
is not trained, because models look there when they look for nothing. Here the tokens before every memory, BOS or the start
of the chat template, are that token. They are in no memory, and nothing trains them.

Letters: M positions, N tokens of the document.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from memvec.checkpoints.resolve import resolve
from memvec.kv.choose import positions_for
from memvec.kv.compact import compact
from memvec.kv.refine import RefineTask
from memvec.kv.selection import Selection
from memvec.lm.device import pick_device, pick_dtype
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load
from memvec.packing.kv import KEYWORD_QUESTIONS, SENTENCE_ANSWERS, Compacting
from memvec.packing.plan import Window
from memvec.settings import KVSettings
from memvec.store.transaction import changing
from memvec.training.segments import Segment
from memvec.types import FitReport


def first_tokens(lm: FrozenLM, ids: tuple[int, ...], ratio: float) -> Selection:
    """All keys and values of the first M of N tokens, as a document of their own."""
    (start,) = compact(lm, [ids[: positions_for(len(ids), ratio)]], ratio=1, budget="even", score="norm")
    return start


def put_cartridges(store: Path, model: str, texts: Mapping[str, str], settings: KVSettings) -> None:
    """Replace the kv memories in a store by cartridges of the same size."""
    device = pick_device(None)
    lm = load(resolve(model), pick_dtype(None, device), device)
    pack: Any = SimpleNamespace(questions=(), generate=None)  # for lessons nothing else is asked of a pack
    compacting = Compacting(lm, settings, "", pack)
    made = []
    with changing(store) as transaction:
        opened = transaction.store
        for record in [opened.record(ref) for stored in opened.documents().values() for ref in stored.kv]:
            begun, positions = time.perf_counter(), 0
            text = texts[record.document.name].encode()[record.start : record.start + record.length].decode()
            ids = tuple(lm.encode(text))
            window = Window(record.document, Segment(record.start, record.length, ids), text)
            selection = first_tokens(lm, ids, settings.ratio)
            if settings.refine:

                def tick(more: int) -> None:
                    nonlocal positions
                    positions += more

                asked = compacting.asking.about(window, KEYWORD_QUESTIONS, SENTENCE_ANSWERS)
                (selection,) = compacting.refiner.run([RefineTask(ids, selection, asked)], tick)
            seconds = time.perf_counter() - begun
            made.append(
                replace(
                    record,
                    tokens=selection.tokens,  # M: it was made of a text that ends there
                    kv=selection.stored(settings.bits),
                    report=FitReport(steps=settings.refine, token_steps=positions, seconds=seconds),
                )
            )
        transaction.commit(made)
