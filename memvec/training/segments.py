"""Cut a document's text into segments: at a line or sentence end, before the surprisal exceeds the budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from memvec.chunks import chunked
from memvec.lm.frozen import FrozenLM
from memvec.lm.head import head_pass
from memvec.settings import PackSettings

WINDOW = 256  # tokens of context when surprisal is measured
MIN_TOKENS = 8  # shorter text is stored raw
MOST_VECTORS = 12  # most budgets of surprisal in a segment, so that hard text gets short segments
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", ":", ";")
POSITIONS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Segment:
    """A contiguous piece of a document."""

    start: int  # first byte
    length: int  # bytes
    ids: tuple[int, ...]  # N tokens that decode to exactly these bytes


def surprisal(lm: FrozenLM, sequences: Sequence[Sequence[int]], window: int = WINDOW) -> list[list[float]]:
    """Surprisal of every token, given those before it in its window [nats]. The first one has log V."""
    pieces = [(number, tuple(part)) for number, ids in enumerate(sequences) for part in chunked(ids, window)]
    out: list[list[float]] = [[] for _ in sequences]
    for batch in chunked(pieces, max(1, POSITIONS_AT_ONCE // window)):
        for (number, _), nats in zip(batch, _batch_surprisal(lm, [ids for _, ids in batch]), strict=True):
            out[number] += nats
    return out


@torch.inference_mode()
def _batch_surprisal(lm: FrozenLM, batch: Sequence[Sequence[int]]) -> list[list[float]]:
    longest = max(map(len, batch))
    padded = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in batch], device=lm.device)
    hidden = lm.hidden(lm.embed(padded))
    out = []
    for row, ids in enumerate(batch):
        known = head_pass(hidden[row, : len(ids) - 1], lm.head, padded[row, 1 : len(ids)], gradient=False)
        out.append([math.log(lm.vocabulary), *known.nats.tolist()])
    return out


def cut(
    text: str, ids: Sequence[int], nats: Sequence[float], lm: FrozenLM, settings: PackSettings
) -> list[Segment] | None:
    """Cut `text` into segments of bounded tokens and nats. None if it cannot be cut, as in `tile`."""
    carrying = max(1, settings.vectors - settings.anchor) if settings.vectors else MOST_VECTORS
    budget = settings.budget(lm.width) * carrying
    total = [0.0, *accumulate(nats)]
    return _tile(text, ids, lm.decode, lambda at: _furthest(at, total, budget, settings.segment_tokens))


def tile(text: str, ids: Sequence[int], decode: Callable[[Sequence[int]], str], most: int) -> list[Segment] | None:
    """Cut `text` into segments of similar length, of at most about `most` tokens.

    None if the tokens cannot be cut so that each piece decodes to its own bytes.
    """
    size = math.ceil(len(ids) / max(1, math.ceil(len(ids) / most)))
    # The last segment takes up a short rest, which cuts at sentence ends leave because they come early.
    return _tile(text, ids, decode, lambda at: len(ids) if len(ids) - at <= 1.25 * size else at + size)


def _tile(
    text: str, ids: Sequence[int], decode: Callable[[Sequence[int]], str], furthest: Callable[[int], int]
) -> list[Segment] | None:
    segments: list[Segment] = []
    at, char, byte = 0, 0, 0
    while at < len(ids):
        piece = _best_piece(text, char, ids, at, furthest(at), decode)
        if piece is None:
            return None
        stop, words = piece
        size = len(words.encode())
        segments.append(Segment(byte, size, tuple(ids[at:stop])))
        at, char, byte = stop, char + len(words), byte + size
    return segments if char == len(text) else None


def vectors_for(nats: float, tokens: int, width: int, settings: PackSettings) -> int:
    """M for the first fit of a segment, unless the settings fix it.

    It is the anchor and a vector for each budget of nats, at most one a token.
    """
    return settings.vectors or settings.anchor + max(1, min(tokens, math.ceil(nats / settings.budget(width))))


def _furthest(at: int, total: Sequence[float], budget: float, cap: int) -> int:
    """The last token at which a segment from `at` may end."""
    tokens = len(total) - 1
    end = min(at + cap, tokens)
    while end > at + MIN_TOKENS and total[end] - total[at] > budget:
        end -= 1
    rest = tokens - at
    # A rest of up to one and a half segments is halved, because very short segments cost many vectors a token.
    return end if end == tokens or rest >= 1.5 * (end - at) else at + math.ceil(rest / 2)


def _best_piece(
    text: str, char: int, ids: Sequence[int], at: int, end: int, decode: Callable[[Sequence[int]], str]
) -> tuple[int, str] | None:
    """(stop, words) of the best cut at or before `end`: a line end, else a sentence end, else the last possible one."""
    if end == len(ids):
        words = decode(ids[at:end])
        return (end, words) if text[char:] == words else None
    preferred = at + 3 * (end - at) // 4
    best: tuple[int, int, str] | None = None
    # Back to the first token. Past `end` only if one character spans more tokens than a segment holds.
    for stop in [*range(end, at, -1), *range(end + 1, min(end + 16, len(ids)))]:
        if best and stop <= preferred:
            break
        words = decode(ids[at:stop])
        if (
            not words
            or not text.startswith(words, char)
            or not _ends_a_character(text, char, words, decode(ids[stop : stop + 16]))
        ):
            continue
        rank = 2 if words.endswith("\n") else int(words.rstrip(" \"'”’)»").endswith(SENTENCE_ENDS))
        if best is None or rank > best[0]:
            best = rank, stop, words
        if rank == 2:
            break
    return best[1:] if best else None


def _ends_a_character(text: str, char: int, words: str, following: str) -> bool:
    # U+FFFD at the end is half a character, unless the text has one there. Then the following text joins on.
    return not words.endswith("\ufffd") or text.startswith(words + following.rstrip("\ufffd"), char)
