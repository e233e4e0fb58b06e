"""Scores are the attention that a document gets when it is said again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import make
from reading import off, tokens
from torch import Tensor

from memvec.kv import scores as module
from memvec.kv.scores import AGAIN, FURTHER, chunk_size, lead_tokens, read, windows
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load
from memvec.templates.template import Frame, frame

BEFORE = (7, 9)


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens before a document: the tiny LM has no BOS."""
    monkeypatch.setattr(module, "frame", lambda tokenizer, words: Frame(BEFORE, frame(tokenizer, words).after))


def by_hand(folder: str, lm: FrozenLM, text: list[int], begin: int = 0, chunk: int = 10**6) -> Tensor:
    """(L, H, N) the greatest of transformers' own attention weights."""
    from transformers import AutoModelForCausalLM

    eager = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    words = f"{FURTHER} {lm.decode(text[begin - module.OVERLAP : begin])}" if begin else AGAIN
    lead, again = frame(lm.tokenizer, words).after, text[begin : begin + chunk]
    ids = torch.tensor([[*BEFORE, *text, *lead, *again]])
    with torch.inference_mode():
        weights = torch.cat(eager(input_ids=ids, output_attentions=True).attentions)  # (L, H·G, T, T)
    first = len(BEFORE) + len(text) + len(lead) - 1  # the last token of the request asks for the first of the chunk
    seen = weights[:, :, first:, len(BEFORE) : len(BEFORE) + len(text)].amax(2)
    return seen.unflatten(1, (lm.model.config.num_key_value_heads, -1)).amax(2)


@pytest.mark.usefixtures("template")
def test_scores_are_attention_weights(tiny: str, tiny_lm: FrozenLM) -> None:
    """As transformers computes them, in one pass and in chunks."""
    text = tokens(tiny_lm, 30)
    assert off(read(tiny_lm, [text], "repeat").scores[:, 0], by_hand(tiny, tiny_lm, text)) < 1e-5


@pytest.mark.usefixtures("template")
def test_long_documents_are_said_again_in_chunks(tiny: str, tiny_lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A position's score is its greatest of all chunks."""
    monkeypatch.setattr(module, "CHUNK", 12)
    text = tokens(tiny_lm, 30)
    wanted = torch.stack([by_hand(tiny, tiny_lm, text, begin, 12) for begin in (0, 12, 24)]).amax(0)
    assert off(read(tiny_lm, [text], "repeat").scores[:, 0], wanted) < 1e-5
    short = tokens(tiny_lm, 11, 1)  # it has no second chunk, as its neighbour has
    both = read(tiny_lm, [text, short], "repeat").scores
    assert off(both[:, 0], wanted) < 1e-5 and off(both[:, 1, :, -11:], by_hand(tiny, tiny_lm, short)) < 1e-5


@pytest.mark.usefixtures("template")
@pytest.mark.parametrize("score", ["repeat", "norm"])
def test_padded_batches(tiny_lm: FrozenLM, score: module.Score) -> None:
    """Documents of a batch have the keys, values and scores that each has alone. Padding is never the best."""
    texts = [tokens(tiny_lm, many, many) for many in (25, 9, 17)]
    found = read(tiny_lm, texts, score, longest=30)
    assert found.before == 2 and found.scores.shape == (4, 3, 2, 30) and found.lengths == [25, 9, 17]
    for row, text in enumerate(texts):
        alone, many = read(tiny_lm, [text], score), len(text)
        assert (found.scores[:, row, :, :-many] == -1).all() and (alone.scores >= 0).all()
        assert off(found.scores[:, row, :, -many:], alone.scores[:, 0]) < 1e-5
        for name in ("keys", "values"):
            parts = zip(getattr(found, name), getattr(alone, name), strict=True)
            assert all(off(one[row, :, -many:], other[0]) < 1e-5 for one, other in parts)


def test_blocks_of_queries(tiny_lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention in small blocks gives the same scores, also for the layers behind."""
    text = tokens(tiny_lm, 30)
    whole = read(tiny_lm, [text], "repeat").scores
    monkeypatch.setattr(module, "BLOCK", 4 * 90 * 3)
    assert off(read(tiny_lm, [text], "repeat").scores, whole) < 1e-5


def test_norms_are_those_of_values(tiny_lm: FrozenLM) -> None:
    """One reading, and the size of each value."""
    found = read(tiny_lm, [tokens(tiny_lm, 12)], "norm")
    assert torch.equal(found.scores, torch.stack([value.norm(dim=-1) for value in found.values]))


@pytest.mark.parametrize("score", ["repeat", "norm"])
@pytest.mark.parametrize(("name", "layers"), [("mistral", [16, 16]), ("gemma3", [16, None]), ("llama", [None, None])])
def test_sliding_windows(name: str, layers: list[int | None], score: module.Score, tmp_path: Path) -> None:
    """Positions that no question will see score nothing. Those that only the repetition did not see score a little."""
    lm = load(make(name, tmp_path))
    assert windows(lm.model, 2) == [width or float("inf") for width in layers]
    for text in (tokens(lm, 40), tokens(lm, 9)):
        for scores, width in zip(read(lm, [text], score, longest=45).scores, layers, strict=True):
            seen = min(len(text), 15 if width else 40)
            assert (scores[0, :, -seen:] > 0).all() and (scores[0, :, 45 - len(text) : -seen] == 0).all()


def test_chunks_stay_within_the_context(tiny_lm: FrozenLM, tmp_path: Path) -> None:
    """They get shorter where it ends, and depend on the shape of a batch alone."""
    assert chunk_size(tiny_lm, 100) == 1024 - 100 - lead_tokens(tiny_lm)
    assert chunk_size(tiny_lm, 5000) == module.LEAST
    lm = load(make("gpt2", tmp_path))
    long, short = tokens(lm, 380), tokens(lm, 370, 1)  # the table of positions has 512
    both = read(lm, [long, short], "repeat").scores
    assert (both[:, 0] > 0).all() and off(
        both[:, 1, :, -370:], read(lm, [short], "repeat", 380).scores[:, 0, :, -370:]
    ) < 1e-5
