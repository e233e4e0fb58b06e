"""Memories of each kind, loaded from stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kv_memory import with_kv

import memvec
from memvec.errors import ConditioningError, NotFoundError, UsageError
from memvec.kv.selection import Selection
from memvec.memory.prompt import front_of

BOTH, ONLY_KV, ONLY_CONTEXT = "prose.txt", "bom.txt", "crlf.txt"


@pytest.fixture(scope="module")
def kept(remembering: Path, tiny_lm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with kv memories of two windows, and context memories."""
    return with_kv(remembering, tmp_path_factory.mktemp("kv") / "s", tiny_lm, [BOTH, ONLY_KV], windows=2)


@pytest.mark.parametrize(
    ("names", "kv"), [([BOTH], True), ([BOTH, ONLY_KV], True), ([BOTH, ONLY_CONTEXT], False), ([], False)]
)
def test_auto_is_kv_where_every_document_has_it(kept: Path, names: list[str], kv: bool) -> None:
    memory = memvec.load_memory(kept, names)
    assert (bool(memory.kv), bool(memory.parts)) == (kv, bool(names) and not kv)
    assert memory.documents == tuple(names)


def test_kinds(kept: Path) -> None:
    kv, context, exact = (memvec.load_memory(kept, BOTH, kind) for kind in ("kv", "context", "exact"))
    assert len(kv.kv) == 1 and len(kv.kv[0]) == 2
    assert len(kv) == sum(part.stored.positions for part in kv.kv[0]) > 0
    assert kv.vectors.shape == (0, kv.fingerprint.width)
    assert len(context) == len(context.vectors) == 6 and context.kv == () != exact.parts


def test_a_kind_that_is_missing(kept: Path) -> None:
    for name, kind, said in (
        (ONLY_CONTEXT, "kv", "no keys and values"),
        (ONLY_KV, "context", "no context vectors"),
        ("latin-1.txt", "auto", "no memory"),
    ):
        with pytest.raises(ConditioningError, match=said):
            memvec.load_memory(kept, [BOTH, name], kind)
    for kind in ("auto", "kv"):
        with pytest.raises(NotFoundError):
            memvec.load_memory(kept, "no-such", kind)


def test_joining(kept: Path) -> None:
    first, second = (memvec.load_memory(kept, name, "kv") for name in (BOTH, ONLY_KV))
    both = first + second
    assert (both.documents, len(both)) == ((BOTH, ONLY_KV), len(first) + len(second))
    assert both.kv == first.kv + second.kv
    for other in (memvec.load_memory(kept, ONLY_CONTEXT), memvec.load_memory(kept, BOTH, "exact")):
        with pytest.raises(UsageError, match="either vectors or keys and values"):
            first + other


def test_windows_stand_one_behind_another_and_documents_side_by_side(kept: Path) -> None:
    memories = [memvec.load_memory(kept, name, "kv") for name in (BOTH, ONLY_KV)]
    single = [[Selection.of(part.stored, part.tokens) for part in memory.kv[0]] for memory in memories]
    both = front_of(memories[0] + memories[1])
    assert isinstance(both, Selection)
    assert both.tokens == max(sum(part.tokens for part in parts) for parts in single)
    assert both.positions == sum(part.positions for parts in single for part in parts)
    begin, places = 0, []
    for layer, counts in enumerate(both.counts):
        for head, count in enumerate(counts.tolist()):
            rows = slice(begin, begin + count)
            begin += count
            wanted = []
            for first, second in single:
                for part, further in ((first, second.tokens), (second, 0)):
                    own = slice(*_bounds(part, layer, head))
                    wanted.append((part.distances[own] + further, part.keys[own], part.values[own]))
            for found, parts in zip((both.distances, both.keys, both.values), zip(*wanted, strict=True), strict=True):
                torch.testing.assert_close(found[rows], torch.cat(parts), rtol=0, atol=0)
            places.append(count)
    assert begin == len(both.keys) == sum(places)


def test_the_best_match_stands_next_to_the_prompt_the_others_side_by_side_before_it(kept: Path) -> None:
    best, other = (memvec.load_memory(kept, name, "kv") for name in (BOTH, ONLY_KV))
    ranked = memvec.load_memory(kept, [BOTH, ONLY_KV], "kv", ranked=True)
    assert ranked.documents == (ONLY_KV, BOTH)
    for memory, beside in ((ranked, [other]), (best + other + ranked, [best, other, other])):
        assert memory.ranked
        front, last, before = (front_of(one) for one in (memory, best, sum(beside[1:], beside[0])))
        assert isinstance(front, Selection) and isinstance(last, Selection) and isinstance(before, Selection)
        assert (front.tokens, front.positions) == (before.tokens + last.tokens, before.positions + last.positions)
        wanted = torch.cat([last.distances, before.distances + last.tokens])
        assert torch.equal(front.distances.sort().values, wanted.sort().values)
        nearest = [front.distances[slice(*_bounds(front, 1, 0))], last.distances[slice(*_bounds(last, 1, 0))]]
        assert torch.equal(nearest[0][-len(nearest[1]) :], nearest[1])


def test_vectors_of_the_best_match_come_last(remembering: Path) -> None:
    names = ["prose.txt", "crlf.txt"]
    ranked, plain = (memvec.load_memory(remembering, names, "context", ranked=ranked) for ranked in (True, False))
    assert ranked.documents == plain.documents[::-1] == ("crlf.txt", "prose.txt")
    assert (ranked.vectors == memvec.load_memory(remembering, names[::-1], "context").vectors).all()


def _bounds(part: Selection, layer: int, head: int) -> tuple[int, int]:
    counts = part.counts.flatten()
    cell = layer * part.counts.shape[1] + head
    return int(counts[:cell].sum()), int(counts[: cell + 1].sum())


class TestGenerate:
    """`memvec.generate` and `compare` with a kv memory."""

    def test_generate(self, kept: Path, tiny_lm: Any, tiny: str) -> None:
        made = memvec.generate(kept, "However little", BOTH, max_new_tokens=4, model=tiny)
        memory = memvec.load_memory(kept, BOTH)
        assert (made.kind, made.using, made.memory_positions) == ("kv", "vectors", len(memory))
        kwargs = memory.generate_kwargs(tiny_lm.model, tiny_lm.tokenizer, "However little")
        assert made.positions == kwargs["attention_mask"].shape[1]
        out = tiny_lm.model.generate(**kwargs, max_new_tokens=4, do_sample=False)
        assert made.text == tiny_lm.tokenizer.decode(out[0, kwargs["input_ids"].shape[1] :], skip_special_tokens=True)
        context = memvec.generate(kept, "However little", ONLY_CONTEXT, max_new_tokens=4, model=tiny)
        assert context.kind == "context"

    def test_ranked(self, kept: Path, tiny_lm: Any, tiny: str) -> None:
        """It is told in the order of the names. The best match is the last in front, as a memory and as text."""
        names, asked = [BOTH, ONLY_KV], "However little"
        made = memvec.generate(kept, asked, names, ranked=True, max_new_tokens=6, model=tiny)
        assert made.documents == tuple(names)
        kwargs = memvec.load_memory(kept, names, ranked=True).generate_kwargs(tiny_lm.model, tiny_lm.tokenizer, asked)
        out = tiny_lm.model.generate(**kwargs, max_new_tokens=6, do_sample=False)
        assert made.text == tiny_lm.tokenizer.decode(out[0, kwargs["input_ids"].shape[1] :], skip_special_tokens=True)
        (_, memory, text), (_, beside, turned) = (
            memvec.compare(kept, asked, order, ranked=ranked, answer=" said", max_new_tokens=1, model=tiny)
            for order, ranked in ((names, True), (names[::-1], False))
        )
        assert text.nats_per_token == turned.nats_per_token is not None
        assert memory.nats_per_token != beside.nats_per_token

    def test_compare(self, kept: Path, tiny_lm: Any, tiny: str) -> None:
        none, memory, text = memvec.compare(kept, "However little", BOTH, answer=" said", max_new_tokens=2, model=tiny)
        assert (none.kind, memory.kind, text.kind) == (None, "kv", None)
        loaded = memvec.load_memory(kept, BOTH)
        kwargs = loaded.generate_kwargs(tiny_lm.model, tiny_lm.tokenizer, "However little")
        ids = tiny_lm.encode(" said")
        scores = tiny_lm.model.generate(
            **kwargs,
            max_new_tokens=len(ids),
            eos_token_id=None,
            prefix_allowed_tokens_fn=lambda row, seen: ids[len(seen) - kwargs["input_ids"].shape[1] :][:1],
            output_logits=True,
            return_dict_in_generate=True,
        ).logits
        nats = [-float(row[0].log_softmax(-1)[token]) for row, token in zip(scores, ids, strict=True)]
        assert memory.nats_per_token == pytest.approx(sum(nats) / len(nats), rel=1e-4)
