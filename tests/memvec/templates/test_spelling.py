"""Places in ids of tokenizers that join the end of a header with the next word, or add spaces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from chat_shapes import SHAPES, SPECIALS

from memvec.templates.template import frame, places

NAMES = ("llama-2", "llama-3", "chatml", "phi-3", "zephyr", "vicuna", "deepseek 1", "alpaca")
WORDS = ("How so?", "", "\n\nHow so?", "  How?", "User", "]", "\u0301x", "😀", "\n", " ")
STYLES = ("joined", "joined after spaces", "sentencepiece", "old sentencepiece", "stripping", "composing")


def trained(style: str) -> Any:
    """A small tokenizer that was trained on the chats, so that it joins frequent neighbours."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    heads = [text for shape in SHAPES.values() for text in (shape.alone, shape.system) if text]
    texts = [head + word for head in heads for word in ("How so?", "\n\nHow", " so", "User")]
    if "sentencepiece" in style:
        made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        if style.startswith("old"):
            made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        made.train_from_iterator(
            texts, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False)
        )
        state = json.loads(made.to_str())
        for byte in range(256):
            state["model"]["vocab"].setdefault(f"<0x{byte:02X}>", len(state["model"]["vocab"]))
        made = Tokenizer.from_str(json.dumps(state))
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    else:
        made = Tokenizer(models.BPE())
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=style == "joined after spaces")
        words = pre_tokenizers.Split(Regex(r"\s*[\r\n]+|\s+(?!\S)|[^\s]?\w+|[^\w]+"), "isolated")
        made.pre_tokenizer = byte_level if "joined" in style else pre_tokenizers.Sequence([words, byte_level])
        made.decoder = decoders.ByteLevel()
        if style == "composing":
            made.normalizer = normalizers.NFC()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
        made.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", clean_up_tokenization_spaces=False)
    added = [AddedToken(t, rstrip=style == "stripping", special=True, normalized=False) for t in SPECIALS]
    tokenizer.add_tokens(added, special_tokens=True)
    return tokenizer


@pytest.fixture(scope="module", params=STYLES)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return trained(request.param)


@pytest.mark.parametrize("name", NAMES)
def test_messages_and_ids(tokenizer: Any, name: str) -> None:
    """Messages and finished ids give the same frame."""
    tokenizer.chat_template, tokenizer.bos_token = SHAPES[name].template, SHAPES[name].bos
    where = places(tokenizer)
    befores = set()
    for system in ([], [{"role": "system", "content": "be brief"}]):
        for word in WORDS:
            talk = [*system, {"role": "user", "content": word}]
            ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=True, return_dict=False)
            row = frame(tokenizer, talk)
            assert row == where.split(ids, True), (system, word)
            befores.add((bool(system), row.before))
            both = (*row.before, *row.after[len(where.separator) :])
            assert tokenizer.decode(both).replace(" ", "") == tokenizer.decode(ids).replace(" ", "")
    assert len(befores) == 2 or (name == "llama-2" and len({before for _, before in befores}) == 1)


def test_headers_join_with_words(tokenizer: Any) -> None:
    """A token reaches over the place, so that the test above tests something."""
    joined = 0
    for name in NAMES:
        tokenizer.chat_template, tokenizer.bos_token = SHAPES[name].template, SHAPES[name].bos
        for word in WORDS:
            talk = [{"role": "user", "content": word}]
            ids = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=True, return_dict=False)
            before = frame(tokenizer, talk).before
            joined += tuple(ids[: len(before)]) != before
    assert joined > 0
