"""Kv memories with every family of models: what works, and what is refused. The tables are in `families`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from families import FAMILIES, VARIANTS, make
from loaded import load_model
from reading import behind, behind_text, off, tokens, uneven, whole

import memvec
from memvec.errors import UnsupportedModelError
from memvec.kv.compact import compact
from memvec.kv.place import placed
from memvec.kv.refine import Recipe, Refiner, RefineTask
from memvec.kv.rotation import rotation_of
from memvec.kv.suitable import check, most_tokens
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load
from memvec.lm.scoring import Row
from memvec.memory.prompt import generate_kwargs
from memvec.packing.kv import longest_window
from memvec.templates.template import frame

REFUSED = {
    "mamba": "have a state of fixed size instead of keys and values",
    "rwkv": "have a state of fixed size instead of keys and values",
    "lfm2": "do not keep keys and values as others do",
    "deepseek_v3": "keep keys and values of different widths, as latent attention does",
    **dict.fromkeys(
        ("falcon", "gptj", "gpt_neo", "bloom", "mpt", "gpt_oss"), "compute attention in a way of their own"
    ),
}
LEARNED = {"gpt2", "opt"}  # positions are part of the input
BOUND = LEARNED | {"llama, dynamic", "phi3, longrope"}  # positions end
LONG, SHORT = 40, 23  # tokens, more than the sliding windows of 16


@pytest.fixture(scope="module", params=sorted((FAMILIES | VARIANTS).keys() - REFUSED.keys()))
def name(request: pytest.FixtureRequest) -> str:
    """The name of a family that kv memories work with."""
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its model and tokenizer."""
    return make(name, tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def lm(folder: Path) -> FrozenLM:
    """Its model, loaded."""
    return load(folder)


@pytest.mark.parametrize("refused", sorted(REFUSED))
def test_refused(refused: str, tmp_path: Path) -> None:
    """The error gives the reason and the kind of memory that works. Nothing is packed."""
    why = f"{re.escape(REFUSED[refused])}.*kind='context'"
    folder, store = make(refused, tmp_path / "model"), tmp_path / "s.memvec"
    with pytest.raises(UnsupportedModelError, match=why):
        check(load(folder))
    with pytest.raises(UnsupportedModelError, match=why):
        memvec.pack([memvec.Source("a.txt", b"The ferry leaves at six.")], store, model=str(folder), kind="kv")
    assert not store.exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_everything_kept_is_the_text(lm: FrozenLM, folder: Path, dtype: torch.dtype) -> None:
    """Behind all keys and values of a text the model answers as behind the text, in a padded batch."""
    lm, most = (lm, 1e-5) if dtype == torch.float32 else (load(folder, dtype), 0.08)
    check(lm)
    texts, question = [tokens(lm, LONG), tokens(lm, SHORT, 1)], tokens(lm, 6, 2)
    before = list(frame(lm.tokenizer, "").before)
    memories = whole(lm, texts)
    for made in (placed(lm.model, memories, [before] * 2), uneven(lm, memories, [before] * 2)):
        for row, text in enumerate(texts):
            wanted = behind_text(lm, [*before, *text], question)
            assert off(behind(lm, made, question, row), wanted) < most
            assert off(behind(lm, made, question, 1 - row), wanted) > 2 * most


@pytest.mark.parametrize("budget", ["head", "even"])
def test_half_of_the_rows(name: str, lm: FrozenLM, budget: str) -> None:
    """Keys that can be moved take half of the positions, others all. Where they stand changes nothing for a question."""
    assert rotation_of(lm.model).movable is (name not in LEARNED)
    text, question = tokens(lm, LONG), tokens(lm, 6, 2)
    kept = compact(lm, [text, tokens(lm, SHORT, 1)], 2, budget)[0]  # type: ignore[arg-type]
    assert (kept.tokens, kept.positions) == (LONG, LONG if name in LEARNED else LONG // 2)
    assert len(kept.keys) == LONG // 2 * kept.counts.numel()
    found = behind(lm, uneven(lm, [kept], [()]), question)
    assert found.isfinite().all()
    other = compact(lm, [tokens(lm, LONG, 3)], 2, budget)[0]  # type: ignore[arg-type]
    assert off(behind(lm, uneven(lm, [other], [()]), question), found) > 1e-3
    if name not in LEARNED:
        elsewhere = dataclasses.replace(kept, positions=7)
        assert off(behind(lm, uneven(lm, [elsewhere], [()]), question), found) < 1e-4


def test_training(lm: FrozenLM) -> None:
    """Two steps change keys and values, and leave what is counted."""
    text = tokens(lm, LONG)
    kept = compact(lm, [text], 4)[0]
    rows = tuple(Row(tuple(text[n : n + 8]), 4) for n in range(0, LONG, 8))
    before = [list(frame(lm.tokenizer, "").before)]
    trained = Refiner(lm, before, [rows[:1]], Recipe(steps=2)).run([RefineTask(tuple(text), kept, (rows,))])[0]
    for part in ("keys", "values"):
        assert getattr(trained, part).isfinite().all() and off(getattr(trained, part), getattr(kept, part)) > 1e-3
    assert torch.equal(trained.distances, kept.distances) and trained.positions == kept.positions


def test_the_longest_document(name: str, lm: FrozenLM) -> None:
    """Where positions end, longer documents are refused. The longest that is taken works."""
    most = most_tokens(lm)
    assert (most is not None) is (name in BOUND)
    if most is None:
        return check(lm, 10**6)
    with pytest.raises(UnsupportedModelError, match=f"at most {most} tokens, found one of {most + 1}"):
        check(lm, most + 1)
    check(lm, most)
    assert 1 <= longest_window(lm) <= most  # so no window that pack makes is refused
    text, question = tokens(lm, most), tokens(lm, 6, 2)
    before = list(frame(lm.tokenizer, "").before)
    found = behind(lm, placed(lm.model, whole(lm, [text]), [before]), question)
    assert off(found, behind_text(lm, [*before, *text], question)) < 1e-5
    return None


def test_from_pack_to_answers(lm: FrozenLM, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packed memory of all rows answers as the text does, in the model as users load it. Smaller ones answer too."""
    monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))
    text = "The ferry leaves from the north pier at six, and dogs travel free."
    questions = ["Who?", "When does the ferry leave"]
    model = load_model(str(folder))
    for ratio, bits, refine in ((1, 16, 0), (3, 8, 2)):
        store = tmp_path / f"{ratio}.memvec"
        settings = memvec.KVSettings(ratio=ratio, bits=bits, refine=refine, measure="all")
        memvec.pack([memvec.Source("a.txt", text.encode())], store, model=str(folder), kind="kv", kv=settings)
        memory = memvec.load_memory(store, "a.txt")
        given = generate_kwargs(model, lm.tokenizer, questions, [memory, memory], template="text")
        said = model.generate(
            **given, max_new_tokens=3, eos_token_id=None, output_logits=True, return_dict_in_generate=True
        )
        for number, question in enumerate(questions):
            row, new = frame(lm.tokenizer, question, "text"), said.sequences[number, -3:].tolist()
            wanted = behind_text(lm, [*row.before, *lm.encode(text)], [*row.after, *new])[-4:-1]
            error = off(torch.stack([step[number] for step in said.logits]), wanted)
            if ratio == 1:
                assert error < 0.05  # 16 bits round a little
            else:  # windows of 16 may not see the text from the end of a longer question
                assert 0.05 < error < 2 or number
