"""Choose documents and files by name or by pattern. Every verb that takes names uses this matcher.

A pattern follows the rules of gitignore, by `pathspec`:

- `*` and `?` stay within a folder, `**` crosses folders, `[a-z]` and `[!a-z]` are one character.
- A pattern with a `/` at its start or inside is compared with the whole name. One without matches at any depth.
- A pattern that matches a folder takes everything in it. With a `/` at its end it matches folders only.
- A pattern that begins with `!` excludes names that earlier patterns took. The last pattern that matches a name decides.
- `\\` makes the next character an ordinary one. Upper and lower case differ.

Three rules differ, because a pattern here is an argument and not a line of a file. `./` at the start means `/`. `#` at the
start is no comment. Spaces at the end count.

An exact name goes first: it means that document alone, whatever characters it has. Any other text is a pattern. A verb
that removes documents is stricter: without `*`, `?`, `[`, `\\`, a `!` in front or a `/` at the end, it is always a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from pathspec import GitIgnoreSpec

from memvec.errors import NotFoundError, UsageError, counted
from memvec.filesystem.brackets import marked, unmarked

LOOKED_AT = 10_000  # most names that are searched for near misses
NEAR_MISSES = 3


class NameSet:
    """Names to look up. It keeps 8 bytes of each, so they cannot be listed."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._hashes = set(map(hash, names))

    def add(self, name: str) -> None:
        """Add a name."""
        self._hashes.add(hash(name))

    def __contains__(self, name: object) -> bool:
        return hash(name) in self._hashes


class NameTree:
    """The names that a store will have. None may be a folder of another."""

    def __init__(self) -> None:
        self._names, self._folders = NameSet(), NameSet()

    def add(self, name: str) -> None:
        """Add a name."""
        self._names.add(name)
        for above in _above(name):
            self._folders.add(above)

    def conflict(self, name: str) -> str | None:
        """The name that would be a file and a folder, if `name` were added, or None."""
        return name if name in self._folders else next((above for above in _above(name) if above in self._names), None)


class Patterns:
    """Patterns in their order. They note which of them have matched something."""

    def __init__(self, patterns: str | Sequence[str], what: str = "pattern") -> None:
        """`what` names the argument in errors. UsageError for an empty or a broken pattern."""
        self.patterns = several(patterns)
        self._rules = [_compiled(pattern, what) for pattern in self.patterns]
        self._used = [False] * len(self.patterns)

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def take(self, name: str, folder: bool = False) -> bool:
        """Do the patterns take in a file, or a folder, or a folder above it? Notes which of them matched."""
        return self._last(name, folder, through_folders=True)

    def ignore(self, name: str, folder: bool = False) -> bool:
        """Would git ignore a file or folder whose folder it does not ignore? Notes which of the patterns matched."""
        return self._last(name, folder, through_folders=False)

    def _last(self, name: str, folder: bool, through_folders: bool) -> bool:
        path = _on_one_line(name) + "/" * folder
        taken = False
        for number, (rule, takes) in enumerate(self._rules):
            ends = [_end_of_folder(match) for match in rule.finditer(path)] if rule is not None else []
            if ends and (through_folders or any(end in (None, len(path)) for end in ends)):
                self._used[number], taken = True, takes
        return taken

    @property
    def unmatched(self) -> list[str]:
        """The patterns that matched none of the names asked about so far."""
        return [pattern for pattern, used in zip(self.patterns, self._used, strict=True) if not used]


@dataclass(frozen=True, slots=True)
class Selection:
    """Documents that were chosen, and by which rule."""

    names: tuple[str, ...]  # in ascending order
    rules: tuple[str, ...]  # for each name or pattern, how it was read: "notes: exact name"


def select(asked: str | Sequence[str], known: Collection[str], removed: Collection[str] | None = None) -> Selection:
    """Choose documents by exact name or by pattern.

    Args:
        asked: Names and patterns. Without any, every document is chosen.
        known: All names.
        removed: Only for a verb that removes: the names that were removed before. These and plain words are not patterns,
            so `rm notes` never removes `sub/notes`, not even the second time.

    Returns:
        The chosen names, and how each of `asked` was read.

    Raises:
        UsageError: One of `asked` is empty, a pattern is broken, or all patterns begin with `!`.
        NotFoundError: One of `asked` chooses nothing. The message names similar documents.
    """
    asked = several(asked)
    if not asked:
        return Selection(tuple(sorted(known)), ())
    names = known if isinstance(known, set | frozenset | dict) else set(known)
    chosen: set[str] = set()
    rules = []
    for text in asked:
        if text in names:
            chosen.add(text)
            rules.append(f"{text}: exact name")
            continue
        is_pattern = removed is None or (_looks_like_pattern(text) and text not in removed)
        found = _matching(text, names) if is_pattern else set()
        if not found:
            raise _not_found(text, names, removed)
        if text.startswith("!"):
            if not chosen:
                raise UsageError(
                    f"{text!r} only takes documents out. Pass a pattern that takes them in first, such as '*'."
                )
            found &= chosen
            chosen -= found
        else:
            chosen |= found
        count = counted(len(found), "document")
        rules.append(f"{text}: pattern, {count}{' taken out' * text.startswith('!')}")
    if not chosen:
        raise NotFoundError(f"{', '.join(map(repr, asked))} choose no document: all of them are taken out again.")
    return Selection(tuple(sorted(chosen)), tuple(rules))


def several(given: str | Sequence[str]) -> tuple[str, ...]:
    """Make a tuple of one string or several. A lone string is not split into characters."""
    return (given,) if isinstance(given, str) else tuple(given)


def near_misses(name: str, known: Iterable[str]) -> str:
    """A sentence with names that are similar to `name`, with a space in front. Empty if none is."""
    some = sorted(known)[:LOOKED_AT]
    last = name.strip("/").rpartition("/")[2]
    found = [other for other in some if last and other.rpartition("/")[2] == last]
    found += get_close_matches(name, some, NEAR_MISSES)
    shown = list(dict.fromkeys(found))[:NEAR_MISSES]
    said = f" Is it {' or '.join(map(repr, shown))}?" if shown else ""
    folder = name.removeprefix("./").strip("/")
    if not name.endswith("/") and any(other.startswith(f"{folder}/") for other in some):
        said += f" It is a folder: {folder + '/'!r} means all documents in it."
    return said


def no_document(name: str, known: Iterable[str], store: object) -> NotFoundError:
    """The error for a name that no document of a store has. `store` is its path."""
    near = near_misses(name, known)
    return NotFoundError(f"no document {name!r} in {str(store)!r}.{near} `memvec.documents(…)` lists the names.")


def _not_found(text: str, known: Iterable[str], removed: Collection[str] | None) -> NotFoundError:
    otherwise = "; nothing was removed" if removed is not None else ""
    if removed and text in removed:
        problem = f"document {text!r} was removed already"
    else:
        problem = f"no document matches {text!r}" if _looks_like_pattern(text) else f"no document {text!r}"
    return NotFoundError(f"{problem}{otherwise}.{near_misses(text, known)} `memvec.documents(…)` lists the names.")


def _looks_like_pattern(text: str) -> bool:
    """Does a verb that removes take this for a pattern? `/a` and `./a` are ways to write the name `a`."""
    return text == "" or text.startswith("!") or text.endswith("/") or any(c in text for c in "*?[\\")


def _matching(pattern: str, names: Iterable[str]) -> set[str]:
    """The names that one pattern matches. A `!` in front is ignored."""
    rule = Patterns([pattern.removeprefix("!")], "document")
    return {name for name in names if rule.take(name)}


def _compiled(pattern: str, what: str) -> tuple[re.Pattern[str] | None, bool]:
    """(expression to search a name with, does it take names in?). None for a pattern that matches nothing."""
    if not isinstance(pattern, str) or pattern in ("", "!"):
        raise UsageError(f"{what} is {pattern!r}, expected a name or a pattern such as '*.txt'.")
    line, expressions = marked(_as_line(pattern))
    if line == "!/":
        return None, False  # to pathspec it would be everything
    try:
        (rule,) = GitIgnoreSpec.from_lines([line]).patterns
        if rule.regex is None:
            return None, bool(rule.include)
        assert isinstance(rule.regex.pattern, str)
        return re.compile(unmarked(rule.regex.pattern, expressions)), bool(rule.include)
    except (ValueError, re.error) as error:
        raise UsageError(f"{what} {pattern!r} is no pattern as gitignore has them: {error}.") from error


def _end_of_folder(match: re.Match[str]) -> int | None:
    """The end of the folder through which a path was matched. None if the path itself was matched."""
    return match.end("ps_d") if match.groupdict().get("ps_d") else None


def _as_line(pattern: str) -> str:
    """Write a pattern as a line of a gitignore file."""
    negated, text = ("!", pattern[1:]) if pattern.startswith("!") else ("", pattern)
    text = _on_one_line(text)
    while "/./" in text or "//" in text:
        text = text.replace("/./", "/").replace("//", "/")
    if text.startswith("./"):
        text = text[1:]
    if text.endswith("/."):
        text = text[:-1]
    if text.endswith("/**"):
        text += "/*"  # means the same to git; pathspec would let it match the folder in front as well
    if text.startswith("#"):
        text = f"\\{text}"
    if text[-1:].isspace() and not text[:-1].endswith("\\"):
        text = f"{text[:-1]}[{text[-1]}]"
    return negated + text


def _on_one_line(text: str) -> str:
    # In regular expressions `.` and `$` treat a line end as no other character. No name holds a NUL, which is none.
    return text.replace("\n", "\0")


def check_together(
    names: Collection[str], places: NameTree | None = None, others: Callable[[], Iterable[str]] = tuple
) -> None:
    """UsageError if one name would be both a file and a folder. `places` holds the names, and `others` beside them."""
    if places is None:
        places = NameTree()
        for name in names:
            places.add(name)
    for name in names:
        if (file := places.conflict(name)) is not None:
            inside = next((other for other in (*names, *others()) if file in _above(other)), None)
            if inside is not None:  # else two names have one hash
                raise UsageError(f"{file!r} cannot be a document beside {inside!r}: no folder could hold both.")


def _above(name: str) -> Iterator[str]:
    """The folders above a name."""
    return (name[:place] for place, character in enumerate(name) if character == "/")
