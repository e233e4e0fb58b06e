"""Can kv memories be made with a model? It is tried: behind a memory of all its rows, the model must answer as behind the text.

Letters: B documents, P positions before a document, N tokens of it, T tokens behind it, V vocabulary.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from memvec.causes import first_line, out_of_memory
from memvec.errors import MemvecError, UnsupportedModelError
from memvec.kv.compact import gathered
from memvec.kv.place import Placing, plain
from memvec.kv.rotation import rotation_of
from memvec.kv.scores import LEAST, lead_tokens, read
from memvec.lm.attention import EAGER, attention_of
from memvec.lm.frozen import FrozenLM
from memvec.lm.scoring import Prefixes, Row, run_prefixes, run_rows
from memvec.templates.template import frame

ADVICE = "Pack with kind='context': such memories are vectors in front of a prompt, and need no keys"
LENGTHS, ASKED = (12, 7), 4  # tokens of the documents it is tried on, and behind them
# Most error, in float32 and in fewer bits: a share of what the documents change, and a share of the logits for rounding.
OFF, OFF_HALF = (0.01, 0.001), (0.25, 0.02)

_FAULTS: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()  # "" if there is none


def check(lm: FrozenLM, tokens: int = 0) -> None:
    """Refuse models that kv memories do not work with, and documents that are too long for them. A model is tried once.

    Args:
        lm: The frozen LM.
        tokens: Tokens of the longest document.

    Raises:
        UnsupportedModelError: The model has no keys, or answers differently behind its own keys and values, or takes fewer
            tokens.
    """
    if lm.model not in _FAULTS:
        _FAULTS[lm.model] = _fault(lm)
    name = lm.model.config.model_type
    if _FAULTS[lm.model]:
        raise UnsupportedModelError(f"{name} models {_FAULTS[lm.model]}, so there are no kv memories for them", ADVICE)
    most = most_tokens(lm)
    if most is not None and tokens > most:
        raise UnsupportedModelError(
            f"this {name} model makes kv memories of documents of at most {most} tokens, found one of {tokens}",
            "Pack it in parts, or with kind='context'",
        )


def most_tokens(lm: FrozenLM) -> int | None:
    """The tokens of the longest document that kv memories can be made of. None if the model sets no limit.

    Learned positions end with the table. Rotations that depend on the length of the input cannot be taken back beyond the
    original context. Behind a document there must be room to say a part of it again.
    """
    rotation = rotation_of(lm.model)
    if rotation.context is None or not rotation.bound:
        return None
    return max(0, rotation.context - len(frame(lm.tokenizer, "").before) - lead_tokens(lm) - LEAST)


@torch.inference_mode()
def _fault(lm: FrozenLM) -> str:
    """What is wrong with the model, as the rest of a sentence. Empty if nothing is."""
    if lm.recurrent:
        return "have a state of fixed size instead of keys and values"
    if attention_of(lm.model) == EAGER:  # `load` found that memvec's attention does not do for it
        return "compute attention in a way of their own"
    try:
        return _difference(lm)
    except UnsupportedModelError as error:
        return f"attend in a way that kept keys and values do not know ({str(error).split('. ')[0]})"
    except Exception as error:  # models of other makers raise anything
        if out_of_memory(error) or isinstance(error, MemvecError):
            raise
        kind, said = type(error).__name__, first_line(error, 120)
        return f"do not keep keys and values as others do ({said if said == kind else f'{kind}: {said}'})"


def _difference(lm: FrozenLM) -> str:
    """Answers behind the text against answers behind a memory of all of its rows, in a padded batch."""
    ids = (torch.arange(sum(LENGTHS) + ASKED) * 7 + 3).remainder(lm.vocabulary).tolist()
    texts = [ids[: LENGTHS[0]], ids[LENGTHS[0] : sum(LENGTHS)]]
    behind = Row(tuple(ids[-ASKED:]), 1)
    before = list(frame(lm.tokenizer, "").before)

    found = read(lm, texts, "norm")
    if any(key.shape != value.shape for key, value in zip(found.keys, found.values, strict=True)):
        return "keep keys and values of different widths, as latent attention does"
    if len({key.shape for key in found.keys}) > 1:
        return "keep keys of different shapes in their layers"
    every = read(lm, texts, "repeat").scores >= 0
    kept = gathered(lm, found, every, found.lengths)
    placing = Placing(lm.model, kept, [before] * len(texts))
    rows = [torch.cat([getattr(memory, name) for memory in kept])[placing.order] for name in ("keys", "values")]
    made = placing.prefixes(*rows)

    wanted = _answers(lm, run_prefixes(lm, [_embedded(lm, [*before, *text]) for text in texts]), behind)
    without = _answers(lm, run_prefixes(lm, [_embedded(lm, before)] * len(texts)), behind)
    of_change, of_size = OFF if lm.dtype == torch.float32 else OFF_HALF
    most = of_change * float((without - wanted).norm()) + of_size * float(wanted.norm())
    for prefixes in (made, plain(made)):
        if not float((_answers(lm, prefixes, behind) - wanted).norm()) <= most:
            return "answer otherwise behind their own keys and values than behind the text"
    return ""


def _answers(lm: FrozenLM, prefixes: Prefixes, row: Row) -> Tensor:
    """Logits (B·(T-1), V) of a row behind each prefix."""
    many = len(prefixes.held)
    hidden = run_rows(lm, prefixes, range(many), [row] * many)
    return (hidden @ lm.head.T).float()


def _embedded(lm: FrozenLM, ids: list[int]) -> Tensor:
    return lm.embed(torch.tensor(ids, dtype=torch.long, device=lm.device))
