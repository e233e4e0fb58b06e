"""Search: the right record is found in what the store holds now, and another embedder, a stale or a damaged index is noticed."""

from __future__ import annotations

import hashlib
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from made import REPORT, document
from made_kv import keys_values

import memvec
from memvec.errors import MissingExtraError, NotFoundError, StoreDamagedError, UsageError
from memvec.packing.records import kv_record
from memvec.retrieval import faiss_index
from memvec.retrieval.build import build_index, drop_index, index_info
from memvec.retrieval.embedders import maker
from memvec.retrieval.search import Searcher, retrieve, search
from memvec.settings import PackSettings
from memvec.store import index_files
from memvec.store.store import Store
from memvec.store.transaction import Transaction

TEXTS = {
    "ferry.txt": "The ferry leaves from the north pier at six, and dogs travel free.",
    "supper.txt": "The ladies of the house were at supper when the carriage came.",
    "deep/tea.txt": "Nobody drinks tea in the library, said the old colonel to his niece.",
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, tiny: str, tiny_settings: Callable[..., PackSettings]) -> Path:
    """A store of the texts, with keys."""
    store = tmp_path_factory.mktemp("search") / "s.memvec"
    sources = [memvec.Source(name, text.encode()) for name, text in TEXTS.items()]
    memvec.pack(sources, store, model=tiny, settings=tiny_settings())
    return store


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(packed, tmp_path / "s.memvec"))


QUERIES = [("when does the ferry leave", "ferry.txt"), ("a carriage at supper", "supper.txt"), ("tea", "deep/tea.txt")]


@pytest.mark.parametrize(("query", "document"), QUERIES)
@pytest.mark.parametrize("embedder", [None, "lm", "bm25"])
def test_the_record_that_says_it_is_found_first(packed: Path, query: str, document: str, embedder: str | None) -> None:
    hits = search(packed, query, 3, embedder=embedder)
    assert hits[0].document == document
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_hits_say_where_they_are_and_decode_to_what_was_packed(packed: Path) -> None:
    for hit in search(packed, "north pier dogs", 9, decode=True):
        whole = TEXTS[hit.document].encode()
        assert hit.text == whole[hit.start : hit.start + hit.length].decode()
        assert memvec.show(packed, hit.record)["id"] == hit.record


def test_only_documents_that_match_are_searched(packed: Path) -> None:
    assert {hit.document for hit in search(packed, "ferry", 9, documents=["deep/*"])} == {"deep/tea.txt"}
    with pytest.raises(NotFoundError, match=r"no document matches 'none\*'"):
        search(packed, "ferry", 9, documents=["none*"])


def test_a_kv_memory_is_a_memory(store: Path, tiny: str) -> None:
    """A document whose only memory is one of keys and values is retrieved, with content or without."""
    transaction = Transaction.open(store)
    origin = transaction.store.manifest.fingerprint
    supper, alone = TEXTS["supper.txt"].encode(), b"The dogs and the colonel travel free on the north pier."
    assert retrieve(store, "supper", 3, min_score=None) == ()
    records = [
        kv_record(document(name, data), 0, data, 12, keys_values(), REPORT, width=origin.width)
        for name, data in (("supper.txt", supper), ("alone.txt", alone))
    ]
    texts = {hashlib.sha256(alone).digest(): alone.decode()}
    transaction.commit(records, keys=[maker(name, Path(tiny), origin).keys(texts) for name in ("lm", "bm25")])
    assert retrieve(store, "the carriage at supper", 3, min_score=None)[0] == "supper.txt"
    assert set(retrieve(store, "supper", 9, min_score=None)) == {"supper.txt", "alone.txt"}
    hits = search(store, "colonel on the north pier", 9, embedder="bm25", decode=True)
    assert (hits[0].document, hits[0].text) == ("alone.txt", None)


def test_unrelated_prompts_give_no_hit_and_related_ones_do(packed: Path) -> None:
    searcher = Searcher(Store.open(packed))
    assert searcher.search("How do I boil an egg?", 3, min_score="auto") == []
    assert searcher.search(TEXTS["ferry.txt"], 1, min_score="auto")[0].document == "ferry.txt"


def test_replaced_and_added_documents_count_at_once_with_an_index_kept(
    store: Path, tiny: str, tiny_settings: Callable[..., PackSettings]
) -> None:
    build_index(store)
    sources = [
        memvec.Source("ferry.txt", b"The tram now stops beside the museum of shells."),
        memvec.Source("new.txt", b"A parrot in the hall says good morning to the baker."),
    ]
    memvec.pack(sources, store, model=tiny, settings=tiny_settings())
    assert search(store, "the parrot says good morning", 1)[0].document == "new.txt"
    assert search(store, "museum of shells", 1)[0].document == "ferry.txt"
    assert all(hit.text != TEXTS["ferry.txt"] for hit in search(store, "ferry north pier dogs", 20, decode=True))
    (vectors, words) = index_info(store)
    assert vectors.indexed < vectors.texts + 3 and vectors.missing == words.missing == 0


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF4,SQfp16", "SQ8"])
def test_a_kept_index_finds_what_a_scan_finds(store: Path, factory: str) -> None:
    before = [search(store, query, 3, embedder="lm") for query, _ in QUERIES]
    assert build_index(store, factory=factory)[0].factory == factory
    after = [search(store, query, 3, embedder="lm") for query, _ in QUERIES]
    assert [[h.record for h in hits] for hits in before] == [[h.record for h in hits] for hits in after]
    assert drop_index(store) == 1 and index_info(store)[0].factory is None


def test_a_damaged_index_is_not_used(store: Path) -> None:
    build_index(store)
    expected = search(store, "ferry", 3)
    file = next((store / index_files.FOLDER).glob("*.faiss"))
    data = bytearray(file.read_bytes())
    data[-9] ^= 0x40  # FAISS reads it without a word
    file.write_bytes(data)
    assert faiss.read_index(str(file)).ntotal
    info = index_files.describe(store / index_files.FOLDER, file.stem)
    assert info is not None and faiss_index.load(store / index_files.FOLDER, info) is None
    assert search(store, "ferry", 3) == expected


def test_an_index_of_keys_that_are_gone_is_not_used(store: Path) -> None:
    build_index(store)
    file = next((store / index_files.FOLDER).glob("*.json"))
    file.write_text(file.read_text().replace('"keys":["', '"keys":["0'))
    assert index_info(store)[0].factory is None
    assert search(store, "ferry", 1)[0].document == "ferry.txt"


@pytest.mark.parametrize("indexed", [False, True])
def test_a_store_whose_documents_were_all_removed_has_no_hit(store: Path, indexed: bool) -> None:
    """Its keys and its index are still there, and name no live text."""
    if indexed:
        build_index(store)
    memvec.rm(store, list(TEXTS))
    assert search(store, "ferry", 3) == search(store, "ferry", 3, min_score="auto") == []


def test_damaged_keys_are_refused_and_verify_names_them(store: Path) -> None:
    file = next((store / "keys").glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(StoreDamagedError, match="keys/"):
        search(store, "ferry")
    report = memvec.verify(store)
    assert not report.ok and "keys/" in report.problems[0].location


def test_another_embedder_is_refused_by_name(packed: Path) -> None:
    with pytest.raises(UsageError, match=r"keys of lm, bm25, not of 'sentence-transformers:x'.*build_index"):
        search(packed, "ferry", embedder="sentence-transformers:x")
    with pytest.raises(UsageError, match="expected lm, bm25 or"):
        search(packed, "ferry", embedder="word2vec")


@pytest.mark.parametrize(("query", "k"), [("  ", 5), ("ferry", 0), ("ferry", 10**9)])
def test_invalid_queries(packed: Path, query: str, k: int) -> None:
    with pytest.raises(UsageError):
        search(packed, query, k)


def test_a_store_without_keys_says_how_to_get_them_and_gets_them(
    tmp_path: Path, tiny: str, tiny_settings: Callable[..., PackSettings]
) -> None:
    store = tmp_path / "bare.memvec"
    memvec.pack([memvec.Source("a", TEXTS["ferry.txt"].encode())], store, model=tiny, settings=tiny_settings(), keys=[])
    with pytest.raises(NotFoundError, match=r"memvec\.build_index"):
        search(store, "ferry")
    (vectors, words) = build_index(store)
    assert (vectors.embedder, words.embedder, vectors.missing) == ("lm", "bm25", 0)
    assert search(store, "ferry", 1)[0].document == "a"
    assert memvec.verify(store).ok


def test_factories_that_faiss_does_not_know_are_refused(store: Path) -> None:
    with pytest.raises(UsageError, match="FAISS knows no index 'Nonsense'"):
        build_index(store, factory="Nonsense")
    with pytest.raises(UsageError, match="cannot be built of"):
        build_index(store, factory="IVF4096,Flat")
    assert index_info(store)[0].factory is None


def test_the_embedder_does_not_depend_on_company_and_ignores_empty_text(tiny: str) -> None:
    made = maker("lm", Path(tiny), memvec.fingerprint(tiny))
    alone = made.keys({bytes(32): "a word or two"}).values
    both = made.keys({bytes([1] * 32): "", bytes(32): "a word or two"}).values
    assert (alone[0] == both[1]).all() and not both[0].any()
    assert np.linalg.norm(alone[0].astype(np.float32)) == pytest.approx(1, abs=1e-3)


def test_threads_of_torch_are_left_as_they_were(store: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        build_index(store)
        search(store, "ferry")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


class Letters:
    """Stands in for sentence-transformers' class: a text is how often it holds each letter."""

    def __init__(self, name: str) -> None:
        self.name = name

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"weight": torch.tensor([float(len(self.name))], dtype=torch.bfloat16)}

    def encode(self, text: str, **options: object) -> np.ndarray:
        counts = np.array([text.lower().count(chr(97 + i)) for i in range(26)], np.float32)
        return counts / max(1e-6, np.linalg.norm(counts))

    def encode_document(self, texts: list[str], **options: object) -> np.ndarray:
        return np.stack([self.encode(text) for text in texts])

    encode_query = encode_document


def test_a_model_trained_for_search_is_added_and_then_used(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=Letters))
    made = build_index(store, embedder="sentence-transformers:letters")
    assert [(one.embedder, one.width, one.missing) for one in made][2] == ("sentence-transformers:letters", 26, 0)
    assert Searcher(Store.open(store)).names == ("lm", "bm25")  # a model that a store names is loaded by its name alone
    text = TEXTS["deep/tea.txt"]
    found = search(store, "".join(sorted(text)), 1, embedder="sentence-transformers:letters")
    assert found[0].document == "deep/tea.txt"
    monkeypatch.setattr(Letters, "state_dict", lambda self: {"weight": torch.zeros(1)})
    with pytest.raises(UsageError, match="made with another version"):
        search(store, "ferry", embedder="sentence-transformers:letters")


def test_without_the_package_it_is_said_how_to_get_it(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        build_index(store, embedder="sentence-transformers:letters")


def test_metadata(store: Path, tiny: str, tiny_settings: Callable[..., PackSettings]) -> None:
    sources = [memvec.Source(name, TEXTS[name].encode()) for name in ("ferry.txt", "supper.txt")]
    shards = len(Store.open(store).manifest.shards)
    memvec.pack(sources, store, model=tiny, settings=tiny_settings(), meta={"year": "1813", "kind": "note"})
    assert len(Store.open(store).manifest.shards) == shards  # nothing was fitted again
    found = search(store, "tea at supper on the ferry", 9, where={"year": "1813"})
    assert {hit.document for hit in found} == {"ferry.txt", "supper.txt"}
    assert memvec.show(store, "ferry.txt")["meta"] == {"year": "1813", "kind": "note"}
    memvec.pack(sources[:1], store, model=tiny, settings=tiny_settings(), meta={"year": "1814"})
    assert {hit.document for hit in search(store, "ferry", 9, where={"year": "1814"})} == {"ferry.txt"}
    assert search(store, "ferry", 9, where={"kind": "none"}) == []
    memvec.pack(sources, store, model=tiny, settings=tiny_settings(), meta={})
    assert not Store.open(store).manifest.meta and memvec.verify(store).ok
