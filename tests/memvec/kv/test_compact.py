"""Compacting: what is kept of a document, and that it depends on the document alone."""

from __future__ import annotations

import pytest
import torch
from reading import behind, behind_text, off, prose, tokens

from memvec.kv.choose import positions_for
from memvec.kv.compact import compact
from memvec.kv.place import placed
from memvec.kv.rotation import rotation_of
from memvec.kv.scores import Score, read
from memvec.kv.selection import Selection
from memvec.lm.frozen import FrozenLM

LENGTHS = (40, 25, 33)


def parts(kept: Selection) -> list[torch.Tensor]:
    """Distances of each head."""
    return list(torch.split(kept.distances, kept.counts.flatten().tolist()))


@pytest.mark.parametrize("budget", ["head", "even"])
@pytest.mark.parametrize("score", ["repeat", "norm"])
def test_the_highest_scores_are_kept(tiny_lm: FrozenLM, budget: str, score: Score) -> None:
    """Of each head as many as its budget says, in the order of the text."""
    text = tokens(tiny_lm, 40)
    kept = compact(tiny_lm, [text], 4, budget, score)[0]  # type: ignore[arg-type]
    scores = read(tiny_lm, [text], score).scores[:, 0].flatten(0, 1)  # (L·H, N)
    assert (kept.tokens, kept.positions) == (40, 10) and int(kept.counts.sum()) == 10 * 8 == len(kept.keys)
    assert kept.even is (budget == "even")
    least = []
    for own, distances in zip(scores, parts(kept), strict=True):
        places = 40 - distances
        assert (places.diff() > 0).all()
        dropped = own.clone()
        dropped[places] = -1
        least.append((float(own[places].min()) if len(places) else 9.0, float(dropped.max())))
        assert least[-1][0] >= least[-1][1]
    if budget == "head":  # then no head could give a row for a better one of another
        assert min(lowest for lowest, _ in least) >= max(best for _, best in least)


def test_keys_are_kept_as_if_they_stood_first(tiny_lm: FrozenLM) -> None:
    """Turned to their places again, they are the keys that were read. Values are as they were."""
    text = tokens(tiny_lm, 30)
    kept, found = compact(tiny_lm, [text], 3)[0], read(tiny_lm, [text], "norm")
    rotation = rotation_of(tiny_lm.model)
    begin = 0
    for number, count in enumerate(kept.counts.flatten().tolist()):
        own = slice(begin, begin + count)
        layer, head = divmod(number, 2)
        places = 30 - kept.distances[own]
        turned = rotation.turned(layer, kept.keys[own], found.before + places)
        torch.testing.assert_close(turned, found.keys[layer][0, head, places], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(kept.values[own], found.values[layer][0, head, places])
        begin += count


def test_a_profile_sets_the_budgets(tiny_lm: FrozenLM) -> None:
    """Shares of a profile decide how many rows a head keeps, the document's scores which."""
    shares = torch.tensor([[0.9, 0.1], [0.0, 0.0], [0.5, 0.1], [0.2, 0.2]])
    kept = compact(tiny_lm, [tokens(tiny_lm, 40)], 4, shares=shares)[0]
    assert kept.counts.tolist() == [[36, 4], [0, 0], [20, 4], [8, 8]]


@pytest.mark.parametrize("budget", ["head", "even"])
def test_neighbours_change_nothing(tiny_lm: FrozenLM, budget: str) -> None:
    """A document keeps the same rows beside any others. Padded to one length, they are the same to the bit."""
    texts = [tokens(tiny_lm, many, many) for many in LENGTHS]
    others = [texts[0], tokens(tiny_lm, 48, 9), tokens(tiny_lm, 3, 8)]
    one, two = (compact(tiny_lm, batch, 5, budget, longest=48)[0] for batch in (texts, others))  # type: ignore[arg-type]
    alone = compact(tiny_lm, texts[:1], 5, budget)[0]  # type: ignore[arg-type]
    for name in ("counts", "distances", "keys", "values"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert torch.equal(one.distances, alone.distances) and off(one.keys, alone.keys) < 1e-5
    for kept, many in zip(compact(tiny_lm, texts, 5), LENGTHS, strict=True):
        assert (kept.tokens, kept.positions) == (many, positions_for(many, 5))


def test_everything_kept_is_the_text(tiny_lm: FrozenLM) -> None:
    """Behind all rows the model answers as behind the text, behind a part of them not quite."""
    ids = prose(tiny_lm, 120)
    text, question = ids[:100], ids[100:]
    wanted = behind_text(tiny_lm, text, question)
    errors = []
    for ratio in (1, 1.5, 20):
        memory = compact(tiny_lm, [text], ratio)[0]
        errors.append(off(behind(tiny_lm, placed(tiny_lm.model, [memory], [()]), question), wanted))
    assert errors[0] < 1e-5 < errors[1] < errors[2]
