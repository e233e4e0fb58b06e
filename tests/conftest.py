"""Fixtures of all tests: the tiny trained LM, a folder of documents of every kind, and stores packed from it."""

from __future__ import annotations

import copy
import math
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for a hub
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell starts what runs in the background so, and programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # of several workers each has one thread: more would fight for the cores
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest

import memvec
from memvec.filesystem.sources import Source
from memvec.settings import ContextSettings, PackSettings

TESTS = Path(__file__).parent
TINY = TESTS / "tiny" / "model"
# What the tiny LM's vectors can carry; the library's default is measured on the default model.
TINY_SETTINGS: dict[str, Any] = {
    "nats_per_vector": 9.0,
    "segment_tokens": 32,
    "max_steps": 150,
    "learning_rate": 1.0,
    "last_rate": 1.0,
}

DOCUMENTS: dict[str, bytes] = {
    "prose.txt": b"It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in "
    b"want of a wife. However little known the feelings or views of such a man may be on his first entering a "
    b"neighbourhood, this truth is so well fixed in the minds of the surrounding families.\n",
    "deep/er/unseen.txt": b"The ladies of the house were at supper when the carriage came, and nobody heard it.\n" * 2,
    "empty": b"",
    "one-byte": b"x",
    "crlf.txt": b"first line\r\nsecond line\r\n\r\nfourth line of the four, and the last\r\n",
    "bom.txt": b"\xef\xbb\xbfA byte order mark stands before this sentence.",
    "nul.txt": b"a zero byte \x00 in the midst of a sentence that goes on",
    "emoji.txt": "She laughed 😀👩‍👩‍👧 and went on 🇫🇷 with her letter".encode(),
    "cjk.txt": "你好，世界。こんにちは".encode(),
    "replacement.txt": "a real \ufffd\ufffd replacement \ufffd character".encode(),
    "special.txt": b"<|end|> is text here, and so is <s> and </s>",
    "lone-surrogate": b"before \xed\xa0\x80 after, which is no valid UTF-8",
    "latin-1.txt": "déjà vu, à la carte, Überfluß".encode("latin-1"),
    "image.png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3,
    "spaces.txt": b"  two  spaces   three\t\ttabs  \n\n\n\nand four line ends  ",
}


def write_tree(folder: Path, documents: dict[str, bytes]) -> Path:
    """Put documents as files below `folder`."""
    for name, data in documents.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def documents() -> dict[str, bytes]:
    """Names and bytes of documents of every kind."""
    return dict(DOCUMENTS)


@pytest.fixture(scope="session")
def tiny() -> str:
    """The tiny LM's checkpoint folder."""
    return str(TINY)


@pytest.fixture(scope="session")
def tiny_lm() -> Any:
    """The tiny LM in float32."""
    from memvec.lm.load import load

    return load(TINY)


@pytest.fixture(scope="session")
def tiny_settings() -> Callable[..., PackSettings]:
    """Make settings for the tiny LM, with changes."""
    return lambda **changes: PackSettings(**{**TINY_SETTINGS, **changes})


@pytest.fixture(scope="session")
def records_of() -> Callable[[Path], list[Any]]:
    """All records of a store, of every version, complete or not."""
    from memvec.store.store import Store

    def records(store: Path) -> list[Any]:
        opened = Store.open(store)
        return [opened.record(ref) for version in opened.versions() for ref in version.records]

    return records


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documents as files."""
    return write_tree(tmp_path_factory.mktemp("tree"), DOCUMENTS)


@pytest.fixture(scope="session")
def packed(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the tree, packed once with the tiny LM. Tests do not change it."""
    import memvec

    store = tmp_path_factory.mktemp("packed") / "tree.memvec"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("memvec.packing.commit.COMMIT_SECONDS", math.inf)  # or a slow machine makes more shards
        memvec.pack([tree], store, model=str(TINY), settings=PackSettings(**TINY_SETTINGS), dtype="float32")
    return store


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Path:
    """A copy of the packed store, to be damaged or added to."""
    return Path(shutil.copytree(packed, tmp_path / "copy.memvec"))


@pytest.fixture(scope="session")
def remembering(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packed store with made-up memories, of two of its documents and of one that has nothing else."""
    import hashlib

    import numpy as np

    from memvec.packing.records import context_record
    from memvec.store.lock import writing
    from memvec.store.store import Store
    from memvec.store.transaction import Transaction
    from memvec.types import Conditioning, Document

    store = Path(shutil.copytree(packed, tmp_path_factory.mktemp("remembering") / "tree.memvec"))
    opened = Store.open(store)
    live = {name: stored.document for name, stored in opened.documents().items()}
    data = b"a document of which only the memory is there"
    live["only-memory.txt"] = Document("only-memory.txt", len(data), hashlib.sha256(data).hexdigest(), 40, 12)
    texts = DOCUMENTS | {"only-memory.txt": data}
    report = Conditioning(0.5, 0.1, 0.25, 0.01, 3.0, 2.0, 2.5, 8, "made up", 0)
    records = []
    for seed, (name, size) in enumerate({"prose.txt": 6, "crlf.txt": 3, "only-memory.txt": 4}.items()):
        noise = np.random.default_rng(seed).standard_normal((size, opened.manifest.fingerprint.width)) * 0.3
        records.append(context_record(live[name], 0, texts[name], live[name].tokens, noise.astype(np.float16), report))
    with writing(store):
        Transaction(opened).commit(records)
    return store


CHAT = (
    "{% if messages[0]['role'] != 'system' %}be kind\n{% endif %}"
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_lm: Any) -> Iterator[Any]:
    """A tokenizer with BOS and without a chat template."""
    changed = copy.deepcopy(tiny_lm.tokenizer)
    changed.bos_token = "<|end|>"
    return changed


@pytest.fixture
def chat(tokenizer: Any) -> Any:
    """The same tokenizer with a chat template."""
    tokenizer.chat_template = CHAT
    return tokenizer


@pytest.fixture(scope="session")
def disorder() -> str:
    """The words of the book in random order. The tiny LM knows the book, but not this text."""
    words = (TESTS / "tiny" / "corpus.txt").read_text().split()
    return " ".join(random.Random(0).sample(words, len(words)))


@pytest.fixture(scope="session")
def few(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three documents of the packed one, which decodes quickly. Tests do not change it."""
    from memvec.formats.manifest import Manifest
    from memvec.store.store import Store
    from memvec.store.transaction import Transaction

    whole = Store.open(packed)
    state = Manifest(whole.manifest.fingerprint, whole.manifest.vocabulary)
    transaction = Transaction.create(tmp_path_factory.mktemp("few") / "few.memvec", state)
    names = ("prose.txt", "crlf.txt", "image.png")
    transaction.commit([whole.record(ref) for name in names for ref in whole.documents()[name].records])
    return transaction.path


@pytest.fixture
def few_copy(few: Path, tmp_path: Path) -> Path:
    """A copy of `few`, to be changed."""
    return Path(shutil.copytree(few, tmp_path / "few.memvec"))


@pytest.fixture(scope="session")
def passages(disorder: str) -> dict[str, str]:
    """Three documents by name."""
    return {"a.txt": disorder[30_000:30_330], "b.txt": disorder[60_000:60_300], "c/d.txt": disorder[90_000:90_350]}


@pytest.fixture(scope="session")
def packed_bytes(passages: dict[str, str]) -> dict[str, bytes]:
    """The bytes of `passages`."""
    return {name: text.encode() for name, text in passages.items()}


@pytest.fixture(scope="session")
def sources(packed_bytes: dict[str, bytes]) -> list[Source]:
    """The `passages` as sources of a pack."""
    return [Source(name, data) for name, data in packed_bytes.items()]


@pytest.fixture(scope="session")
def quick() -> ContextSettings:
    """Settings of memories for the tiny LM, which knows no questions but continues a text in front of it."""
    return ContextSettings(
        steps=30, aside_rows=1, question_rows=2, span=16, span_share=1.0, span_weight=1.0, learning_rate=0.1
    )


@pytest.fixture(scope="session")
def memories(
    sources: list[Source], quick: ContextSettings, tiny: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store with memories only. Tests do not change it."""
    store = tmp_path_factory.mktemp("memories") / "m.memvec"
    memvec.pack(sources, store, model=tiny, kind="context", context=quick, dtype="float32")
    return store
