"""Every family of models, each with its own kind of tokenizer, goes through the whole path. The table is `families.FAMILIES`."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, SIZE, make
from greedy import greedy, reference
from loaded import load_model, moved, nudge
from peft import PeftModel

import memvec
from memvec.cli.main import run
from memvec.errors import FingerprintError, UsageError
from memvec.identity.fingerprint import check_model, fingerprint
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load
from memvec.lm.scoring import Row, run_prefixes, run_rows
from memvec.memory.cached import CachedMemory
from memvec.memory.memory import Memory
from memvec.memory.prompt import embed, generate_kwargs
from memvec.settings import ContextSettings, PackSettings
from memvec.templates.template import frame

LONG = "The ferry leaves from the north pier at six, and dogs travel free.\nIngrid Vale keeps the key, since  November."
SHORT = " A space, an é and a 😀."
# Families whose keys and values do not go into an adapter, and the reason.
CACHES = {"mamba": "continue from a state", "gemma3": "which a PEFT prefix cannot hold", "mistral": "sliding windows"}
QUESTIONS = ["Who?", "When does the ferry leave from the pier", "And dogs"]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def name(request: pytest.FixtureRequest) -> str:
    """A family's name."""
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its model and tokenizer."""
    return make(name, tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module")
def lm(folder: Path) -> FrozenLM:
    """Its model, loaded."""
    return load(folder)


def test_round_trip(folder: Path, tmp_path: Path) -> None:
    """Documents come back from their vectors."""
    store, texts = tmp_path / "s.memvec", {"long.txt": LONG.encode(), "short.txt": SHORT.encode()}
    settings = PackSettings(nats_per_vector=9, segment_tokens=16, max_steps=100)  # no family has a rate of its own
    report = memvec.pack([memvec.Source(*item) for item in texts.items()], store, model=str(folder), settings=settings)
    assert report.raw_records == 0 and report.records > 3  # segments begin with spaces, and differ in their vectors
    assert {name: memvec.cat(store, name) for name in texts} == texts
    assert memvec.verify(store, decode=True).ok
    assert memvec.search(store, "dogs travel free", 1)[0].document == "long.txt"


def test_cut_tokens(lm: FrozenLM) -> None:
    """Tokens give the text back, wherever it is cut."""
    for text in (LONG, SHORT, "  two", "\n\nline", "x"):
        ids = lm.encode(text)
        assert lm.decode(ids) == text
        cuts = [lm.decode(ids[:at]) + lm.decode(ids[at:]) for at in range(len(ids) + 1)]
        assert all(cut == text for cut in cuts if "\ufffd" not in cut)


def test_logits(lm: FrozenLM, folder: Path) -> None:
    """Logits are the hidden states times the head, and those of the model that users load, with a cache and without."""
    ids = torch.tensor([lm.encode(LONG)[:24], lm.encode(LONG)[1:25]])
    with torch.inference_mode():
        whole = load_model(str(folder))(input_ids=ids).logits
        torch.testing.assert_close(lm.hidden(lm.embed(ids)) @ lm.head.T, whole, atol=1e-3, rtol=1e-3)
    logits, cache = lm.start(lm.embed(ids[:, :6]))
    for place in range(6, 24):
        torch.testing.assert_close(logits, whole[:, place - 1], atol=1e-3, rtol=1e-3)
        logits, cache = lm.advance(ids[:, place], cache)


def test_rows_behind_prefixes(lm: FrozenLM) -> None:
    """Rows behind prefixes give the results of whole passes, and keep the gradient."""
    ids = lm.encode(LONG)[:30]
    prefixes = [lm.embed(torch.tensor(ids[:5])), lm.embed(torch.tensor(ids[:20])).requires_grad_(True)]
    rows, owner = [Row(tuple(ids[5:14]), 1), Row(tuple(ids[20:30]), 2), Row(tuple(ids[20:24]), 1)], [0, 1, 1]
    hidden = run_rows(lm, run_prefixes(lm, prefixes), owner, rows)
    with torch.inference_mode():
        whole = lm.model(input_ids=torch.tensor([ids])).logits[0]
    expected = torch.cat([whole[5:13], whole[21:29], whole[20:23]])
    torch.testing.assert_close(hidden @ lm.head.T, expected, atol=2e-3, rtol=2e-3)
    (gradient,) = torch.autograd.grad(hidden[8:].square().sum(), prefixes[1])
    assert (gradient.norm(dim=1) > 0).all()


def test_padded_batch(lm: FrozenLM, folder: Path) -> None:
    """Memories of different lengths work in one padded batch."""
    owner = memvec.fingerprint(str(folder))
    memories = [None if size is None else Memory((f"{size}",), (_noise(lm, size),), owner) for size in (3, None, 16)]
    kwargs = generate_kwargs(lm.model, lm.tokenizer, QUESTIONS, memories, template="text")
    assert kwargs["attention_mask"].sum(1).unique().numel() == 3
    made = greedy(lm.model, kwargs, 5)
    for got, question, memory in zip(made, QUESTIONS, memories, strict=True):
        row = frame(lm.tokenizer, question, "text", memory is not None)
        assert got == reference(lm.model, row.before, memory, row.after, 5)


def test_text_as_memory(lm: FrozenLM) -> None:
    """The embeddings of a text as a memory give the logits of its ids."""
    ids = lm.encode(LONG)[:20]
    row = frame(lm.tokenizer, QUESTIONS[1], "text")
    made = embed(lm.model, [(row, lm.embed(torch.tensor(ids)))])
    with torch.inference_mode():
        wanted = lm.model(input_ids=torch.tensor([[*row.before, *ids, *row.after]])).logits
        torch.testing.assert_close(lm.model(inputs_embeds=made.inputs_embeds).logits, wanted, atol=2e-4, rtol=0)


def test_cached_memory(lm: FrozenLM, folder: Path) -> None:
    """A cached memory works, or an error says why it cannot."""
    memory = Memory(("m",), (_noise(lm, 4),), memvec.fingerprint(str(folder)))
    if lm.recurrent:
        with pytest.raises(UsageError, match="from a state"):
            CachedMemory(lm.model, lm.tokenizer, memory, "text")
        return
    cached = CachedMemory(lm.model, lm.tokenizer, memory, "text")
    whole = generate_kwargs(lm.model, lm.tokenizer, QUESTIONS[:1], memory, template="text")
    assert greedy(lm.model, cached.generate_kwargs(QUESTIONS[0]), 5) == greedy(lm.model, whole, 5)


def _noise(lm: FrozenLM, size: int) -> np.ndarray:
    spread = float(lm.embed(torch.arange(3)).std())
    return (np.random.default_rng(size).standard_normal((size, lm.width)) * spread).astype(np.float16)


@pytest.fixture(scope="module")
def remembering(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a memory that was distilled in a few steps."""
    store, context = tmp_path_factory.mktemp("memory") / "m.memvec", ContextSettings(steps=3, question_rows=1)
    source = memvec.Source("a.txt", LONG.encode())
    memvec.pack(source, store, model=str(folder), kind="context", context=context, dtype="float32")
    return store


def test_distilled_memory(lm: FrozenLM, remembering: Path) -> None:
    """The model answers behind a distilled memory, and a distilled memory is another than the text it began with."""
    memory = memvec.load_memory(remembering, "a.txt")
    vectors = torch.from_numpy(memory.vectors.astype("float32"))
    assert 1 < len(vectors) < len(lm.encode(LONG)) / 3 and vectors.isfinite().all()
    assert (torch.cdist(vectors, lm.table) > 1e-2).all()
    answer = memvec.generate(remembering, QUESTIONS[1], "a.txt", max_new_tokens=4)
    assert (answer.kind, answer.memory_positions) == ("context", len(vectors))
    row = frame(lm.tokenizer, QUESTIONS[1])
    said = reference(lm.model, row.before, memory, row.after, 4)
    assert answer.text == lm.tokenizer.decode(said[: answer.tokens], skip_special_tokens=True)
    with torch.inference_mode():
        behind, alone = (
            lm.model(**embed(lm.model, [(row, front)]).forward_kwargs()).logits[0, -1] for front in (vectors, None)
        )
    assert (
        behind - alone
    ).norm() > 0.01 * alone.norm()  # tokens alone tell little: some of these models repeat the last


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated", "ignore:Position ids are not supported")
@pytest.mark.parametrize(
    "target", ["store", "npy", "vllm", "vllm-chat", "peft-prompt", "peft-prefix", "peft-cartridge"]
)
def test_exports(
    target: str, name: str, lm: FrozenLM, remembering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each export holds the memory. Of keys and values there are none in a state, and not all in a window."""
    refused = CACHES.get(name, "") if target in ("peft-prefix", "peft-cartridge") else ""
    asked = ["--prompt", QUESTIONS[1]] if target in ("npy", "vllm", "vllm-chat") else []
    which = [] if target == "store" else ["--to", target, "--id", "a.txt", *asked]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of windows and states; tests/integrations has them
        code = run(["export", str(remembering), *which, "-o", str(tmp_path / "out")])
    if refused:
        assert code == 2 and refused in capsys.readouterr().err and not (tmp_path / "out").exists()
        return
    assert code == 0
    memory = memvec.load_memory(remembering, "a.txt")
    if target == "store":
        memvec.import_store(tmp_path / "out", tmp_path / "again.memvec")
        assert np.array_equal(memvec.load_memory(tmp_path / "again.memvec", "a.txt").vectors, memory.vectors)
        return
    row = frame(lm.tokenizer, QUESTIONS[1])
    wanted = embed(lm.model, [(row, torch.from_numpy(memory.vectors.astype("float32")))])
    if target.startswith("peft"):
        given = {"input_ids": torch.tensor([row.after])}
        adapted = PeftModel.from_pretrained(load_model(lm.model.name_or_path), tmp_path / "out")
        with torch.inference_mode():
            found = adapted(**given, attention_mask=torch.ones_like(given["input_ids"])).logits
            whole = lm.model(**wanted.forward_kwargs()).logits
        places = len(row.after)
        torch.testing.assert_close(found[:, -places:], whole[:, -places:], atol=2e-3, rtol=2e-3)
    elif target == "npy":
        assert np.array_equal(np.load(tmp_path / "out"), wanted.inputs_embeds[0].numpy())
    else:
        assert len((tmp_path / "out").read_bytes()) > memory.vectors.nbytes


def test_edited_model(folder: Path) -> None:
    """An edited model is refused, however its checkpoint names and ties tensors."""
    from transformers import AutoTokenizer

    owner, tokenizer = fingerprint(str(folder)), AutoTokenizer.from_pretrained(folder)
    for model in (load_model(str(folder)), moved(load_model(str(folder)))):
        check_model(model, tokenizer, owner)
        nudge(next(value for value in model.parameters() if value.dim() == 2 and value.shape[0] != SIZE))
        with pytest.raises(FingerprintError, match="weights"):
            check_model(model, tokenizer, owner)
    tokenizer.add_special_tokens({"pad_token": "[ADDED]"})
    check_model(load_model(str(folder)), tokenizer, owner)
