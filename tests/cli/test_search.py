"""`search`, `index` and `generate --retrieve`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import memvec
from memvec.store.store import Store


class TestSearch:
    """`memvec search`."""

    def test_hits(self, packed: Path, call: Any) -> None:
        code, out, _ = call("search", packed, "a single man in want of a wife", "-k", 2, "--json")
        hits = json.loads(out)["hits"]
        assert code == 0 and len(hits) == 2 and hits[0]["document"] == "prose.txt" and "text" not in hits[0]
        assert set(hits[0]) == {"document", "record", "score", "start", "length"}
        code, out, _ = call("search", packed, "a single man in want of a wife", "-k", 1, "--decode")
        assert code == 0 and "prose.txt" in out and "wife" in out

    def test_nothing(self, packed: Path, call: Any) -> None:
        """It says when nothing matches."""
        code, out, _ = call("search", packed, "Suggest a healthy breakfast.", "--min-score", "auto")
        assert (code, out) == (0, "nothing matches\n")
        code, out, _ = call("search", packed, "wife", "--doc", "deep/*", "--json")
        assert {hit["document"] for hit in json.loads(out)["hits"]} <= {"deep/er/unseen.txt"}

    def test_where(self, tmp_path: Path, tiny: str, call: Any) -> None:
        """Labels from `pack --meta` limit a search with --where."""
        (tmp_path / "a.txt").write_text("?" * 3)
        store = tmp_path / "s"
        assert call("pack", tmp_path / "a.txt", "-o", store, "-m", tiny, "--meta", "by=Jane", "-q")[0] == 0
        assert json.loads(call("show", store, "a.txt", "--json")[1])["meta"] == {"by": "Jane"}
        assert call("search", store, "?", "--where", "by=Tom")[1] == "nothing matches\n"
        bare = tmp_path / "bare"
        assert call("pack", tmp_path / "a.txt", "-o", bare, "-m", tiny, "--keys", "none", "-q")[0] == 0
        assert call("index", "info", bare)[1] == "no keys\n" and call("search", bare, "?")[0] == 6
        assert call("pack", tmp_path / "a.txt", "-o", bare, "-m", tiny, "--keys", "lm,glove")[0] == 2
        code, _, err = call("search", store, "?", "--where", "by")
        assert code == 2 and "KEY=VALUE" in err

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["search", "STORE", "wife", "--min-score", "high"], "a number or auto"),
            (["search", "STORE", "wife", "--embedder", "glove"], "expected lm, bm25"),
            (["index", "build", "STORE", "--embedder", "bm25", "--factory", "Flat"], "no vectors"),
            (["generate", "STORE", "Who?"], "--retrieve"),
            (["generate", "STORE", "Who?", "--id", "prose.txt", "--retrieve", "1"], "one of the two"),
        ],
    )
    def test_refusals(self, store: Path, arguments: list[str], says: str, call: Any) -> None:
        code, _, err = call(*[store if a == "STORE" else a for a in arguments])
        assert code == 2 and says in err and "Traceback" not in err

    def test_opened_store(self, packed: Path) -> None:
        assert memvec.search(Store.open(packed), "a wife", 1)[0].document == "prose.txt"


class TestIndex:
    """`memvec index`."""

    def test_in_turn(self, store: Path, call: Any) -> None:
        """An index is built, shown and dropped."""
        code, out, _ = call("index", "build", store, "--factory", "Flat", "--json")
        made = json.loads(out)["indexes"]
        assert code == 0 and [(one["factory"], one["missing"]) for one in made] == [("Flat", 0), (None, 0)]
        code, out, _ = call("index", "info", store)
        assert code == 0 and "stored as Flat" in out and "bm25" in out
        code, out, _ = call("index", "drop", store, "--json")
        assert code == 0 and json.loads(out)["dropped"] == 1
        assert call("verify", store)[0] == 0


class TestRetrieve:
    """`memvec generate --retrieve`."""

    def test_cited(self, remembering: Path, call: Any) -> None:
        """The answer names the document that was found."""
        question = "How is a single man in possession of a good fortune in want of a wife?"
        code, out, _ = call("generate", remembering, question, "--retrieve", 1, "--max-new-tokens", 3)
        assert code == 0 and out.splitlines()[-1] == "from prose.txt"
        code, out, _ = call("generate", remembering, "Suggest a healthy breakfast.", "--retrieve", 2, "--json")
        value = json.loads(out)
        assert code == 0 and (value["documents"], value["text"], value["missing"]) == ([], None, "nothing matches")
