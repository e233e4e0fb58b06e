"""Names and patterns: every command chooses the same documents by them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from made import exact, put, raw

import memvec
from memvec.retrieval.search import search
from memvec.store.store import Store

NAMES = ("notes", "sub/notes", "[x].bin", "x.bin", "a.txt", "sub/deep/a.txt")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Raw documents, which no model is needed for."""
    return put(tmp_path / "s.memvec", *(raw(name, b"\xff" + name.encode()) for name in NAMES)).path


class TestChoosing:
    """Every command understands a name or a pattern in the same way."""

    @pytest.mark.parametrize(
        ("asked", "names"),
        [
            (["notes"], ["notes"]),
            (["[x].bin"], ["[x].bin"]),
            (["*.bin"], ["[x].bin", "x.bin"]),
            (["*.txt"], ["a.txt", "sub/deep/a.txt"]),
            (["sub/*.txt", "a.txt"], None),
            (["sub/"], ["sub/deep/a.txt", "sub/notes"]),
            (["notes", "sub/**", "!*.txt"], ["notes", "sub/notes"]),
            (["nothing*"], None),
            ([""], None),
        ],
    )
    def test_commands(self, store: Path, call: Any, tmp_path: Path, asked: list[str], names: Any) -> None:
        """`list`, `rm`, `unpack` and `read` choose the same documents."""
        docs = [part for text in asked for part in ("--doc", text)]
        code, out, err = call("list", store, *docs, "--json")
        assert (code == 0) is (names is not None), err
        found = [row["name"] for row in json.loads(out)["documents"]] if names else None
        assert found == names
        removed = call("rm", store, *asked, "--dry-run", "--json")
        unpacked = call("unpack", store, *docs, "-o", tmp_path / "out", "--json")
        assert removed[0] == unpacked[0] == code
        if names:
            assert json.loads(removed[1])["documents"] == names == sorted(json.loads(unpacked[1])["files"])
            assert [name for name, _ in memvec.read(store, asked)] == names

    @pytest.mark.parametrize("asked", ["./sub", "/sub", "./notes", "sub"])
    def test_rm_of_a_path(self, store: Path, call: Any, asked: str) -> None:
        """`rm ./sub` would take a folder: that needs `sub/`, which the message says."""
        code, _, err = call("rm", store, asked)
        assert code == 6 and "nothing was removed" in err and ("'notes'" if "notes" in asked else "sub/") in err
        assert len(Store.open(store).documents()) == len(NAMES)

    def test_search(self, tmp_path: Path, call: Any) -> None:
        """Search is limited to the documents of --doc."""
        text = b"words of a text that are found"
        store = put(tmp_path / "s.memvec", exact("notes", text, 100), exact("sub/notes", text, 100)).path
        opened = Store.open(store)

        def hits(*documents: str) -> list[str]:
            return sorted({hit.document for hit in search(opened, "notes", 9, documents=documents, embedder="bm25")})

        assert (hits("notes"), hits("sub/*"), hits()) == (["notes"], ["sub/notes"], ["notes", "sub/notes"])
        code, _, err = call("search", store, "notes", "--doc", "nots", "--embedder", "bm25")
        assert code == 6 and "Is it 'notes'" in err


class TestRemoving:
    """`rm` says by which rule it takes what it takes."""

    def test_rules(self, store: Path, call: Any) -> None:
        code, out, _ = call("rm", store, "notes", "*.txt", "--dry-run")
        assert code == 0 and "notes: exact name\n*.txt: pattern, 2 documents\n" in out and "sub/notes" not in out

    def test_a_second_time(self, store: Path, call: Any) -> None:
        for name, other in (("notes", "sub/notes"), ("[x].bin", "x.bin")):
            assert call("rm", store, name)[0] == 0
            code, _, err = call("rm", store, name)
            assert code == 6 and "removed already; nothing was removed" in err
            assert other in Store.open(store).documents()

    def test_a_plain_word_is_no_pattern(self, store: Path, call: Any) -> None:
        assert call("rm", store, "deep")[0] == call("rm", store, "sub")[0] == 6
        assert len(Store.open(store).documents()) == len(NAMES)

    def test_a_dry_run_needs_no_lock(self, store: Path, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("memvec.maintenance.remove.changing", None)
        assert call("rm", store, "notes", "--dry-run")[0] == 0

    def test_a_lone_string_is_no_list_of_letters(self, tmp_path: Path) -> None:
        store = put(tmp_path / "l.memvec", raw("a", b"\xff"), raw("b", b"\xfe"), raw("ab", b"\xfd")).path
        assert memvec.rm(store, "ab").documents == ("ab",)


class TestPacking:
    """`pack` reads what is wanted, and says what pattern was of no use."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for name in ("keep/k", "secret/key"):
            file = tmp_path / "i" / name
            file.parent.mkdir(parents=True)
            file.write_bytes(b"\0\xff")
        return tmp_path / "i"

    @pytest.mark.parametrize("pattern", ["secret/", "./secret", "/secret", "secret"])
    def test_excludes(self, tree: Path, tmp_path: Path, tiny: str, call: Any, pattern: str) -> None:
        code, _, err = call("pack", tree, "-o", tmp_path / "s", "-m", tiny, "-q", "--exclude", pattern)
        assert code == 0 and err == "" and list(Store.open(tmp_path / "s").documents()) == ["keep/k"]

    def test_a_pattern_without_use(self, tree: Path, tmp_path: Path, tiny: str, call: Any) -> None:
        given = ("pack", tree, "-o", tmp_path / "s", "-m", tiny, "--exclude", "sekret", "--include", "*")
        code, out, err = call(*given, "-q", "--json")
        assert code == 0 and "warning: 'sekret' matches no file" in err and json.loads(out)["unmatched"] == ["sekret"]
        code, out, err = call(*given, "--dry-run", "--json")
        assert "'sekret' matches no file" in err and json.loads(out)["unmatched"] == ["sekret"]
        code, _, err = call("pack", tree, "-o", tmp_path / "s", "-m", tiny, "--include", "*.rst")
        assert code == 2 and "'*.rst'" in err

    def test_a_pipe_that_is_named(self, tree: Path, tmp_path: Path, tiny: str, call: Any) -> None:
        os.mkfifo(tree / "pipe")
        code, out, err = call("pack", tree / "pipe", tree / "keep", "-o", tmp_path / "s", "-m", tiny, "-q", "--json")
        assert code == 8 and list(json.loads(out)["skipped"]) == ["pipe"] and "Everything else was packed" in err

    def test_nothing_and_empty_things(self, tree: Path, tmp_path: Path, tiny: str, call: Any) -> None:
        (tmp_path / "empty").mkdir()
        for given in ([tmp_path / "empty"], [tree, "--exclude", "*"], [""], [tree, "--exclude", ""]):
            assert call("pack", *given, "-o", tmp_path / "s", "-m", tiny)[0] == 2
        assert not (tmp_path / "s").exists()

    def test_the_same_text_again(self, tree: Path, tmp_path: Path, tiny: str, call: Any) -> None:
        code, out, _ = call("pack", tree, "-o", tmp_path / "s", "-m", tiny, "--json")
        assert code == 0 and json.loads(out)["reused"] == 0
        code, out, _ = call("pack", tree / "keep", "-o", tmp_path / "s", "-m", tiny)
        assert code == 0 and "1 copied from the same text elsewhere" in out
        code, out, _ = call("pack", tree / "secret", "-o", tmp_path / "s", "-m", tiny, "--no-reuse", "--json")
        assert code == 0 and json.loads(out)["reused"] == 0
