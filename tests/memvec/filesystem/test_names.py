"""Names and patterns choose documents and files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvec.errors import NotFoundError, UsageError
from memvec.filesystem.names import Patterns, near_misses, select

KNOWN = [
    "notes",
    "sub/notes",
    "[x].bin",
    "x.bin",
    "a.txt",
    "sub/a.txt",
    "sub/deep/b.txt",
    "#odd#",
    "end ",
    "two\nlines.txt",
]
# What names may be made of, glob characters and line ends among it.
PARTS = st.text(
    st.sampled_from("ab*?[]!#\\ .\n\té{}^$|-") | st.characters(codec="utf-8", exclude_characters="/\0"),
    min_size=1,
    max_size=6,
)
NAMES = st.lists(PARTS, min_size=1, max_size=3).map("/".join)


def chosen(*asked: str, **options: object) -> list[str]:
    return list(select(asked, KNOWN, **options).names)  # type: ignore[arg-type]


class TestExactNames:
    """A name means its document alone."""

    @given(st.sets(NAMES, min_size=1, max_size=8), st.data())
    def test_any_characters(self, known: set[str], data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(known)))
        for removed in (None, set()):
            found = select([name], known, removed)
            assert found.names == (name,) and found.rules == (f"{name}: exact name",)

    def test_other_folders(self) -> None:
        assert chosen("notes") == ["notes"]
        assert chosen("[x].bin") == ["[x].bin"]

    def test_lone_string(self) -> None:
        assert select("ab", ["a", "b", "ab"]).names == ("ab",)


class TestPatterns:
    """Any other text is a pattern of gitignore."""

    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            ("*.txt", ["a.txt", "sub/a.txt", "sub/deep/b.txt", "two\nlines.txt"]),
            ("/*.txt", ["a.txt", "two\nlines.txt"]),
            ("./*.txt", ["a.txt", "two\nlines.txt"]),
            ("sub/*.txt", ["sub/a.txt"]),
            ("sub/", ["sub/a.txt", "sub/deep/b.txt", "sub/notes"]),
            ("sub//deep/.", ["sub/deep/b.txt"]),
            ("sub/**/b.txt", ["sub/deep/b.txt"]),
            ("?.bin", ["x.bin"]),
            ("[!a].bin", ["x.bin"]),
            ("#*", ["#odd#"]),
            ("* ", ["end "]),
            ("two\n*", ["two\nlines.txt"]),
            (r"\[x\].bin", ["[x].bin"]),
            ("b.txt", ["sub/deep/b.txt"]),
        ],
    )
    def test_matches(self, pattern: str, names: list[str]) -> None:
        assert chosen(pattern) == names

    def test_rules(self) -> None:
        rules = select(["notes", "*.bin", "/sub/", "!b.txt"], KNOWN).rules
        assert rules == (
            "notes: exact name",
            "*.bin: pattern, 2 documents",
            "/sub/: pattern, 3 documents",
            "!b.txt: pattern, 1 document taken out",
        )

    def test_taken_out(self) -> None:
        assert chosen("sub/", "!*.txt") == ["sub/notes"]
        with pytest.raises(UsageError, match="only takes documents out"):
            chosen("!*.txt")
        with pytest.raises(NotFoundError, match="taken out again"):
            chosen("*.txt", "!*")

    def test_case_counts(self) -> None:
        with pytest.raises(NotFoundError, match=r"no document matches '\*\.TXT'"):
            chosen("*.TXT")

    @pytest.mark.parametrize("broken", ["", "!", "a\\"])
    def test_broken(self, broken: str) -> None:
        with pytest.raises(UsageError):
            chosen(broken)
        with pytest.raises(UsageError):
            Patterns([broken])


class TestRemoving:
    """A verb that removes takes no more than was named."""

    def test_plain_words_are_names(self) -> None:
        assert chosen("b.txt") == ["sub/deep/b.txt"]
        with pytest.raises(NotFoundError, match=r"no document 'b\.txt'; nothing was removed\. Is it 'sub/deep/b\.txt'"):
            chosen("b.txt", removed=())
        with pytest.raises(NotFoundError, match="'sub/' means all documents in it"):
            chosen("sub", removed=())

    def test_removed_names(self) -> None:
        with pytest.raises(NotFoundError, match="removed already"):
            select(["[x].bin"], ["x.bin"], {"[x].bin"})
        assert select(["[x].bin"], ["x.bin"], {"other"}).names == ("x.bin",)


class TestNearMisses:
    """Errors suggest similar names."""

    def test_suggestions(self) -> None:
        assert near_misses("note", ["notes", "far"]) == " Is it 'notes'?"
        assert near_misses("c.txt", ["x/y/c.txt"]) == " Is it 'x/y/c.txt'?"
        assert near_misses("nothing", ["zebra"]) == ""


class TestUse:
    """Patterns that matched nothing are known."""

    def test_unmatched(self) -> None:
        patterns = Patterns(["*.txt", "none", "sub/", "!b.txt"])
        assert patterns.take("a.txt") and patterns.take("sub", folder=True) and not patterns.take("sub")
        assert patterns.unmatched == ["none", "!b.txt"]
        assert not patterns.take("deep/b.txt")
        assert patterns.unmatched == ["none"]
