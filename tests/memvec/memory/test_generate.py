"""`generate` and `compare` against the hook and a model called by hand."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import memvec
from memvec.errors import ConditioningError, NoContentError, NotFoundError, UsageError
from memvec.memory import generate as generation
from memvec.memory.generate import compare, generate
from memvec.memory.memory import Memory, load
from memvec.memory.prompt import embed, generate_kwargs
from memvec.store.store import Store
from memvec.templates.template import Frame, frame
from memvec.types import Kind

PROMPT = "The feelings or views of such a man may be on"
DOCUMENT = "prose.txt"


@pytest.fixture(autouse=True)
def loaded(tiny_lm: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The tiny LM for what a store would load, with answers always as long as asked for."""
    changed = copy.copy(tiny_lm)
    changed.model = copy.deepcopy(tiny_lm.model)
    changed.model.generation_config.eos_token_id = None
    monkeypatch.setattr("memvec.identity.runtime.Runtime.load", lambda *args: changed)
    yield changed


def by_hook(lm: Any, memory: Memory | None, new: int = 8, prompt: str = PROMPT) -> str:
    kwargs = generate_kwargs(lm.model, lm.tokenizer, prompt, memory)
    out = lm.model.generate(**kwargs, do_sample=False, max_new_tokens=new)
    return lm.tokenizer.decode(out[0, kwargs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_vectors_are_the_memory_through_the_hook(remembering: Path, loaded: Any) -> None:
    memory = load(remembering, [DOCUMENT, "crlf.txt"])
    made = memvec.generate(remembering, PROMPT, [DOCUMENT, "crlf.txt"], max_new_tokens=8)
    assert made.text == by_hook(loaded, memory)
    row = frame(loaded.tokenizer, PROMPT)
    assert (made.positions, made.memory_positions) == (len(row.before) + 9 + len(row.after), 9)
    assert (made.tokens, made.using, made.documents) == (8, "vectors", (DOCUMENT, "crlf.txt"))
    assert generate(remembering, PROMPT, DOCUMENT, max_new_tokens=8).text == by_hook(
        loaded, load(remembering, DOCUMENT)
    )
    assert generate(remembering, PROMPT, DOCUMENT).tokens == generation.NEW_TOKENS


def test_text_stands_where_the_memory_would(remembering: Path, loaded: Any, documents: dict[str, bytes]) -> None:
    names = [DOCUMENT, "crlf.txt"]
    made = generate(remembering, PROMPT, names, using="text", max_new_tokens=8)
    ids = loaded.encode("\n\n".join(documents[name].decode() for name in names))
    row = frame(loaded.tokenizer, PROMPT)
    whole = torch.tensor([[*row.before, *ids, *row.after]])
    out = loaded.model.generate(
        whole, attention_mask=torch.ones_like(whole), do_sample=False, max_new_tokens=8, pad_token_id=0
    )
    assert made.text == loaded.tokenizer.decode(out[0, whole.shape[1] :], skip_special_tokens=True)
    assert (made.positions, made.memory_positions) == (whole.shape[1], len(ids))


def test_decode_is_plain_generation_from_the_vectors(packed: Path, loaded: Any) -> None:
    opened = Store.open(packed)
    records = [opened.record(ref) for ref in opened.documents()[DOCUMENT].records]
    assert len(records) > 1 and all(record.kind == Kind.EXACT for record in records)
    made = generate(packed, None, DOCUMENT, using="decode")
    wanted = []
    for record in records:
        one = embed(loaded.model, [(Frame((), ()), torch.from_numpy(record.vectors))])
        out = loaded.model.generate(
            inputs_embeds=one.inputs_embeds, attention_mask=one.attention_mask, do_sample=False,
            max_new_tokens=record.tokens, pad_token_id=0,
        )  # fmt: skip
        wanted.append(loaded.decode(out[0].tolist()))
    assert made.text == "".join(wanted)
    assert made.tokens == sum(record.tokens for record in records)
    assert made.positions == sum(len(record.vectors) for record in records)
    assert made.corrections == sum(len(record.corrections) for record in records)
    assert not made.verified
    first = records[0].tokens + 2
    short = generate(packed, None, DOCUMENT, using="decode", max_new_tokens=first)
    assert (short.tokens, short.positions) == (first, sum(len(record.vectors) for record in records[:2]))
    assert made.text.startswith(short.text)


def test_decode_gives_raw_text_as_it_is_and_refuses_other_bytes(packed: Path, documents: dict[str, bytes]) -> None:
    made = generate(packed, None, ["one-byte", "empty"], using="decode")
    assert (made.text, made.tokens) == ("x", 0)
    with pytest.raises(UsageError, match="not UTF-8 text"):
        generate(packed, None, "image.png", using="decode")


def test_sampling_follows_its_seed(remembering: Path) -> None:
    state = torch.random.get_rng_state()
    options: dict[str, Any] = {"sample": True, "temperature": 2.0, "max_new_tokens": 24}
    made = [generate(remembering, PROMPT, DOCUMENT, seed=seed, **options) for seed in (1, 1, 2)]
    assert made[0] == made[1] and made[0].seed == 1
    assert made[0].text != made[2].text
    free = generate(remembering, PROMPT, DOCUMENT, **options)
    assert free.text == generate(remembering, PROMPT, DOCUMENT, seed=free.seed, **options).text
    assert free.text != generate(remembering, PROMPT, DOCUMENT, **options).text
    assert torch.equal(torch.random.get_rng_state(), state)


def test_chat_template_and_messages(remembering: Path, loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = copy.deepcopy(loaded.tokenizer)
    chat.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>{% endfor %}[a]"
    monkeypatch.setattr(loaded, "tokenizer", chat)
    asked = generate(remembering, PROMPT, DOCUMENT, max_new_tokens=8)
    assert asked.text == by_hook(loaded, load(remembering, DOCUMENT))
    talk = [{"role": "user", "content": PROMPT}]
    assert generate(remembering, talk, DOCUMENT, max_new_tokens=8) == asked
    assert generate(remembering, PROMPT, DOCUMENT, max_new_tokens=8, template="text").positions < asked.positions


def test_compare_measures_each_arm(remembering: Path, loaded: Any, documents: dict[str, bytes]) -> None:
    answer = " his first entering a neighbourhood"
    none, vectors, text = compare(remembering, PROMPT, DOCUMENT, answer=answer, max_new_tokens=8)
    assert [arm.name for arm in (none, vectors, text)] == ["none", "vectors", "text"]
    assert none.text == by_hook(loaded, None)
    assert vectors.text == generate(remembering, PROMPT, DOCUMENT, max_new_tokens=8).text
    assert text.text == generate(remembering, PROMPT, DOCUMENT, using="text", max_new_tokens=8).text
    own = loaded.encode(documents[DOCUMENT].decode())
    assert [arm.memory_positions for arm in (none, vectors, text)] == [0, 6, len(own)]
    assert all(arm.seconds_to_first_token and arm.seconds_to_first_token > 0 for arm in (none, vectors, text))
    for arm, held in ((none, []), (text, own)):
        row = frame(loaded.tokenizer, PROMPT, separated=bool(held))
        ids = [*row.before, *held, *row.after]
        target = loaded.encode(answer)
        assert arm.positions == len(ids)
        with torch.inference_mode():
            logits = loaded.model(input_ids=torch.tensor([ids + target])).logits[0, len(ids) - 1 : -1]
        wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(target)).item()
        assert arm.nats_per_token == pytest.approx(wanted, abs=1e-4)
    assert len({arm.nats_per_token for arm in (none, vectors, text)}) == 3
    assert all(arm.nats_per_token is None for arm in compare(remembering, PROMPT, DOCUMENT, max_new_tokens=1))


def test_compare_says_what_cannot_be_had(remembering: Path) -> None:
    _, vectors, text = compare(remembering, PROMPT, "only-memory.txt", max_new_tokens=2)
    assert vectors.text is not None and text.text is None
    assert "found only a memory" in text.missing
    none, vectors, text = compare(remembering, PROMPT, "image.png", max_new_tokens=2)
    assert none.text is not None
    assert "no memory" in vectors.missing and "no UTF-8 text" in text.missing
    with pytest.raises(NotFoundError):
        compare(remembering, PROMPT, "no-such-document")


def test_a_prompt_without_room_is_refused(remembering: Path, loaded: Any) -> None:
    room = loaded.model.config.max_position_embeddings
    with pytest.raises(UsageError, match=f"the model has {room}"):
        generate(remembering, PROMPT, DOCUMENT, max_new_tokens=room)
    # A prompt that has room with the vectors and none with the text.
    words = "wife " * 225
    none, vectors, text = compare(remembering, words, [DOCUMENT] * 4, max_new_tokens=1)
    assert none.text is not None and vectors.text is not None and "positions" in text.missing


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": None}, "prompt is empty"),
        ({"documents": ()}, "documents is empty"),
        ({"max_new_tokens": 0}, "expected 1 or more"),
        ({"sample": True, "temperature": 0.0}, "expected more than 0"),
        ({"temperature": 1.0}, "need sampling"),
        ({"seed": 1}, "need sampling"),
        ({"using": "decode"}, "takes no prompt"),
        ({"using": "decode", "prompt": None, "sample": True}, "does not sample"),
        ({"using": "pictures"}, "expected vectors, text or decode"),
    ],
)
def test_invalid_arguments(remembering: Path, options: dict[str, Any], fragment: str) -> None:
    given = {"prompt": PROMPT, "documents": DOCUMENT, **options}
    with pytest.raises(UsageError, match=fragment):
        generate(remembering, **given)


def test_each_kind_of_document_has_its_refusal(remembering: Path) -> None:
    with pytest.raises(ConditioningError):
        generate(remembering, PROMPT, "bom.txt")
    with pytest.raises(NoContentError):
        generate(remembering, PROMPT, "only-memory.txt", using="text")
    with pytest.raises(NoContentError):
        generate(remembering, None, "only-memory.txt", using="decode")
    with pytest.raises(UsageError, match="no UTF-8 text"):
        generate(remembering, PROMPT, "image.png", using="text")
    for using in ("vectors", "text", "decode"):
        with pytest.raises(NotFoundError):
            generate(remembering, None if using == "decode" else PROMPT, "no-such-document", using=using)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="answer is empty"):
        compare(remembering, PROMPT, DOCUMENT, answer="")
