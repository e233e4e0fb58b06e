"""Files and corpora as one pack: names, order, what is left out, and what changes in between."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from memvec.corpora import documents as module
from memvec.corpora.choose import gathered
from memvec.corpora.corpus import Item
from memvec.corpora.documents import Documents, Sample
from memvec.corpora.json_lines import JsonLines
from memvec.errors import PartialError, UsageError
from memvec.filesystem.names import NameSet
from memvec.settings import CorpusSettings

NAMED = CorpusSettings(id_field="id")


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., Path]:
    def write(*names: str, file: str = "c.jsonl") -> Path:
        (tmp_path / file).write_text("".join(json.dumps({"id": n, "text": f"of {n}"}) + "\n" for n in names))
        return tmp_path / file

    return write


def listed(*paths: Path, stored: tuple[str, ...] = (), settings: CorpusSettings = NAMED, **patterns: str) -> Documents:
    found = gathered(
        paths, patterns.get("include", ()), patterns.get("exclude", ()), paths[0].parent / "s.memvec", settings
    )
    found.list(lambda: stored)
    return found


def test_files_come_first_and_corpora_in_their_order(tmp_path: Path, corpus: Callable[..., Path]) -> None:
    (tmp_path / "z.txt").write_text("file")
    found = listed(corpus("b", "a"), tmp_path / "z.txt", corpus("d", file="e.jsonl"))
    assert [source.name for source in found] == ["z.txt", "b", "a", "d"]
    assert found.count == 4 and found.reached == 4 and found.bytes == found.reached_bytes == 4 + 3 * 4
    assert [source.name for source in found.read(without=NameSet(["a"]), only=NameSet(["a", "d"]))] == ["d"]


class TestNames:
    def test_of_two_rows_with_one_name_the_first_is_packed(self, corpus: Callable[..., Path]) -> None:
        found = listed(corpus("a", "b", "a"), corpus("b", "c", file="d.jsonl"))
        assert [source.name for source in found] == ["a", "b", "c"]
        assert found.skipped == [
            ("c.jsonl#3", "another document of this pack is named 'a'"),
            ("d.jsonl#1", "another document of this pack is named 'b'"),
        ]

    def test_a_row_that_has_the_name_of_a_file(self, tmp_path: Path, corpus: Callable[..., Path]) -> None:
        (tmp_path / "a").write_text("file")
        found = listed(tmp_path / "a", corpus("a", "b"))
        assert [source.name for source in found] == ["a", "b"] and len(found.skipped) == 1

    def test_no_row_is_a_folder_of_another(self, corpus: Callable[..., Path]) -> None:
        found = listed(corpus("a/b", "a", "x", "x/y", "s", "t/u/v"), stored=("s/t", "t/u"))
        assert [source.name for source in found] == ["a/b", "x"]
        assert [why for _, why in found.skipped] == [
            f"{name!r} would be a document and a folder" for name in ("a", "x", "s", "t/u")
        ]

    def test_files_with_such_names_stop_the_pack(self, tmp_path: Path) -> None:
        (tmp_path / "f" / "a").mkdir(parents=True)
        (tmp_path / "f" / "a" / "b").write_text("x")
        with pytest.raises(UsageError, match="'a' cannot be a document beside 'a/b'"):
            listed(tmp_path / "f", stored=("a",))
        with pytest.raises(UsageError, match="'a/b' cannot be a document beside 'a/b/c'"):
            listed(tmp_path / "f", stored=("a/b/c",))

    def test_a_question_about_an_unknown_document(self, corpus: Callable[..., Path]) -> None:
        found = gathered([corpus("a")], (), (), Path("s"), NAMED)
        with pytest.raises(UsageError, match="a question is about 'b'"):
            found.list(asked=["a", "b"])


def test_a_long_listing_says_how_far_it_is(corpus: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_ROWS", 2)
    found, seen = gathered([corpus(*"abcde")], (), (), Path("s"), NAMED), []
    found.list(tick=lambda: seen.append(found.count))
    assert seen == [0, 2, 4]


def test_patterns_choose_documents_of_corpora(corpus: Callable[..., Path]) -> None:
    found = listed(corpus("a.md", "b.txt", "d/c.md"), exclude="d/")
    assert [source.name for source in found] == ["a.md", "b.txt"] and found.unmatched == () and not found.skipped
    found = listed(corpus("a.md", "b.txt", "d/c.md"), include="*.md", exclude="none")
    assert [source.name for source in found] == ["a.md", "d/c.md"] and found.unmatched == ("none",)


class TestLeftOut:
    def test_strict_input_stops_at_the_first(self, corpus: Callable[..., Path]) -> None:
        with pytest.raises(PartialError, match=r"Nothing was packed.*\n.*c\.jsonl#2: another document"):
            listed(corpus("a", "a"), settings=CorpusSettings(id_field="id", strict=True))

    def test_a_report_names_so_many_and_counts_the_rest(
        self, corpus: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MOST_NAMED", 2)
        found = listed(corpus(*"aaaaaa"))
        assert [name for name, _ in found.skipped] == ["c.jsonl#2", "c.jsonl#3", "and more"]
        assert found.skipped[-1].reason == "3 other rows are no documents"

    def test_a_corpus_that_changes_is_named(self, corpus: Callable[..., Path]) -> None:
        found = listed(corpus("a", "b"))
        assert len(list(found)) == 2 and not found.skipped
        corpus("a", "b", "c")
        assert [source.name for source in found][:2] == ["a", "b"]
        assert found.skipped == [("c.jsonl", "it changed while it was packed")]

    def test_a_corpus_that_fails_later_is_named_once(
        self, corpus: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The disk fails in the second reading. Documents before that are packed."""
        found, items = listed(corpus("a", "b", "c.jsonl")), JsonLines.items

        def failing(self: JsonLines) -> Iterator[Item]:
            yield next(iter(items(self)))
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(JsonLines, "items", failing)
            assert [source.name for source in found] == ["a"] == [source.name for source in found]
        assert found.skipped == [("c.jsonl", "Input/output error")]
        assert [source.name for source in found] == ["a", "b", "c.jsonl"]

    def test_a_corpus_that_vanishes_is_named(self, corpus: Callable[..., Path]) -> None:
        found = listed(file := corpus("a"))
        file.unlink()
        assert list(found) == [] and found.skipped == [("c.jsonl", "it changed while it was packed")]


def test_the_sample_is_spread_over_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_BLOCK", 10)
    monkeypatch.setattr(module, "SAMPLE_BLOCKS", 4)
    sample = Sample()
    for number in range(100):
        sample.add(bytes([number]) * 10)
    firsts = [part[0] for part in sample.parts]
    assert 3 <= len(firsts) <= 5 and firsts[0] == 0 and firsts[-1] >= 60
    assert len({later - earlier for earlier, later in pairwise(firsts)}) == 1
