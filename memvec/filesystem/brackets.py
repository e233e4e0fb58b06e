"""Character classes such as `[a-z]` in a pattern, by the rules of git. Those of `pathspec` differ.

`pathspec` lets `[!a]` match the `/` behind a folder, so that `data[!0-9]` would take the whole folder `data`. It knows
no `[[:alpha:]]` and no `\\` within brackets either.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

MARK = "\ud800"  # stands for an expression in brackets; a lone surrogate, so no pattern holds it
NOTHING = "(?!)"
# Git's classes, which are ASCII only. A line end is a NUL here (see `memvec.filesystem.names`).
CLASSES = {
    "alnum": string.ascii_letters + string.digits,
    "alpha": string.ascii_letters,
    "blank": " \t",
    "cntrl": "".join(map(chr, (*range(32), 127))),
    "digit": string.digits,
    "graph": string.ascii_letters + string.digits + string.punctuation,
    "lower": string.ascii_lowercase,
    "print": string.ascii_letters + string.digits + string.punctuation + " ",
    "punct": string.punctuation,
    "space": " \t\0\r\f\v",
    "upper": string.ascii_uppercase,
    "xdigit": string.hexdigits,
}
_TOKEN = re.compile(r"\[:(?P<named>[^\]]*):\]|\\(?P<escaped>.)|(?P<plain>[^\\])", re.DOTALL)


def marked(pattern: str) -> tuple[str, list[str]]:
    """Replace every expression in brackets by a `MARK`, and return the expressions as regular expressions.

    A bracket that is never closed stays as it is.
    """
    made: list[str] = []
    text, at = "", 0
    while at < len(pattern):
        found = _bracket(pattern, at) if pattern[at] == "[" else None
        if found is not None:
            expression, at = found
            made.append(expression)
            text += MARK
            continue
        step = 2 if pattern[at] == "\\" else 1
        text += pattern[at : at + step]
        at += step
    return text, made


def unmarked(expression: str, made: list[str]) -> str:
    """Put the real expressions in the place of the marks in a regular expression."""
    rest = iter(made)
    return re.sub(MARK, lambda _: next(rest), expression)


def _bracket(pattern: str, at: int) -> tuple[str, int] | None:
    """The regular expression for the brackets that open at `at`, and their end. None if they are not closed."""
    at += 1
    negated = pattern[at : at + 1] in ("!", "^") and at < len(pattern)
    at += negated
    tokens: list[re.Match[str]] = []
    while token := _TOKEN.match(pattern, at):
        if token["plain"] == "]" and tokens:
            inside = "".join(_members(tokens))
            if negated:
                return f"[^/{inside}]", token.end()
            return f"(?!/)[{inside}]" if inside else NOTHING, token.end()
        tokens.append(token)
        at = token.end()
    return None


def _members(tokens: list[re.Match[str]]) -> Iterator[str]:
    """The inside of a regular expression's brackets."""
    at = 0
    while at < len(tokens):
        first = tokens[at]["escaped"] or tokens[at]["plain"]
        if first is None:
            yield re.escape(CLASSES.get(tokens[at]["named"], ""))
        elif at + 2 < len(tokens) and tokens[at + 1]["plain"] == "-" and tokens[at + 2]["named"] is None:
            last = tokens[at + 2]["escaped"] or tokens[at + 2]["plain"]
            yield f"{re.escape(first)}-{re.escape(max(first, last))}"  # of z-a git takes z
            at += 2
        else:
            yield re.escape(first)
        at += 1
