"""Tokenizers as models have them, and a store of memories."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import memvec
from memvec.settings import ContextSettings
from memvec.sources import Source

CHAT = (
    "{% if messages[0]['role'] != 'system' %}be kind\n{% endif %}"
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_lm: Any) -> Iterator[Any]:
    """Without a chat template, with a BOS."""
    changed = copy.deepcopy(tiny_lm.tokenizer)
    changed.bos_token = "<|end|>"
    return changed


@pytest.fixture
def chat(tokenizer: Any) -> Any:
    """With a chat template."""
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.fixture(scope="session")
def disorder() -> str:
    """The book with its words in any order: the tiny LM knows the book, but not this."""
    words = (Path(__file__).parents[1] / "tiny" / "corpus.txt").read_text().split()
    return " ".join(random.Random(0).sample(words, len(words)))


@pytest.fixture(scope="session")
def few(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three documents of the packed one, quick to decode as a whole. Not to be changed."""
    from memvec.formats.manifest import Manifest
    from memvec.store import Store

    whole = Store.open(packed)
    state = Manifest(whole.manifest.fingerprint, whole.manifest.vocabulary)
    store = Store.create(tmp_path_factory.mktemp("few") / "few.memvec", state)
    names = ("prose.txt", "crlf.txt", "image.png")
    store.commit([whole.record(ref) for name in names for ref in whole.documents()[name].records])
    return store.path


@pytest.fixture
def few_copy(few: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(few, tmp_path / "few.memvec"))


@pytest.fixture(scope="session")
def passages(disorder: str) -> dict[str, str]:
    """Three documents by name."""
    return {"a.txt": disorder[30_000:30_330], "b.txt": disorder[60_000:60_300], "c/d.txt": disorder[90_000:90_350]}


@pytest.fixture(scope="session")
def packed_bytes(passages: dict[str, str]) -> dict[str, bytes]:
    """Their bytes."""
    return {name: text.encode() for name, text in passages.items()}


@pytest.fixture(scope="session")
def sources(packed_bytes: dict[str, bytes]) -> list[Source]:
    """The same as sources of a pack."""
    return [Source(name, data) for name, data in packed_bytes.items()]


@pytest.fixture(scope="session")
def quick() -> ContextSettings:
    """For the tiny LM, which never saw a question, but goes on with a text it has before it."""
    return ContextSettings(
        steps=30, aside_rows=1, question_rows=2, span=16, span_share=1.0, span_weight=1.0, learning_rate=0.1
    )


@pytest.fixture(scope="session")
def memories(
    sources: list[Source], quick: ContextSettings, tiny: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store of memories alone. Not to be changed."""
    store = tmp_path_factory.mktemp("memories") / "m.memvec"
    memvec.pack(sources, store, model=tiny, kind="context", context=quick, dtype="float32")
    return store
