"""Spell token ids as characters that can be searched. Each added token is one character.

A decoded text loses information: `<|user|>` may be one added token or eight letters, and a space may belong to the word
behind it. A spelling has all of it: byte b is written as chr(b), the added token i as chr(256 + i).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Ids = tuple[int, ...]
Style = Literal["byte-level", "sentencepiece", "other"]

SPACES = " \t\r\n"
ATOM = 256  # added token i is spelled chr(ATOM + i)
LEADS = ("\n", "a", ".")  # put in front of a text; a tokenizer does not join every one of them with the text
BYTE = re.compile(r"<0x([0-9A-F]{2})>")

# How byte-level vocabularies write bytes: printable ones as they are, the others as the characters from 256 on.
_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTES = {chr(byte): chr(byte) for byte in _PRINTABLE} | {chr(256 + i): chr(byte) for i, byte in enumerate(_HIDDEN)}


@dataclass(frozen=True, slots=True)
class Alphabet:
    """The way a tokenizer writes its tokens. It holds no reference to the tokenizer."""

    style: Style
    added: frozenset[int]  # ids of added tokens, which texts are split at before anything else
    known: dict[int, str] = field(default_factory=dict)  # the spellings so far, by id

    @classmethod
    def of(cls, tokenizer: Any) -> Alphabet:
        """Find the alphabet of `tokenizer`."""
        sample = "".join(tokenizer.convert_ids_to_tokens(encode(tokenizer, "a b\n")))
        style: Style = "byte-level" if "\u0120" in sample else "sentencepiece" if "\u2581" in sample else "other"
        return cls(style, frozenset(getattr(tokenizer, "added_tokens_decoder", {})))


@dataclass(frozen=True, slots=True)
class Speller:
    """Spells the ids of one tokenizer, and cuts them at a place in their spelling."""

    tokenizer: Any
    alphabet: Alphabet

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The spelling of each token."""
        known = self.alphabet.known
        new = [i for i in set(ids) if i not in known]
        known.update({i: self._piece(i, self.tokenizer.convert_ids_to_tokens(i)) for i in new})
        return [known[i] for i in ids]

    def spell(self, text: str) -> str:
        """The spelling of the ids of `text`."""
        return "".join(self.pieces(encode(self.tokenizer, text)))

    def begin(self, ids: Sequence[int], bos: int | None) -> int:
        """The length of the spelling of the BOS tokens that `ids` begin with."""
        size = next((i for i, token in enumerate(ids) if token != bos), len(ids))
        return sum(map(len, self.pieces(ids[:size])))

    def cut(self, ids: Sequence[int], place: int) -> tuple[Ids, Ids] | None:
        """Split ids at `place`, an offset in their spelling. None if no token ends there.

        The text on each side of the place, up to the next added token, is tokenized again on its own. A tokenizer that
        sees both sides may join the header's last space to the first word, so that the tokens depend on that word.
        Ids that the tokenizer would not make from their text stay as they are.
        """
        pieces, ids = self.pieces(ids), tuple(ids)
        index = end = 0
        while index < len(pieces) and end + len(pieces[index]) <= place:
            end += len(pieces[index])
            index += 1
        first = next((i + 1 for i in reversed(range(index)) if ids[i] in self.alphabet.added), 0)
        last = next((i for i in range(index, len(ids)) if ids[i] in self.alphabet.added), len(ids))
        offset = place - sum(map(len, pieces[:first]))
        around = "".join(pieces[first:last])
        if self._encode(around) == ids[first:last]:
            before, after = self._encode(around[:offset]), self._encode(around[offset:])
            if before is not None and after is not None:
                return (*ids[:first], *before), (*after, *ids[last:])
        return (ids[:index], ids[index:]) if end == place else None

    def _piece(self, i: int, token: str | None) -> str:
        if i in self.alphabet.added or token is None:
            return chr(ATOM + i)
        if self.alphabet.style == "byte-level":
            return "".join(_BYTES[c] for c in token) if all(c in _BYTES for c in token) else chr(ATOM + i)
        if self.alphabet.style == "sentencepiece":
            byte = BYTE.fullmatch(token)
            return chr(int(byte[1], 16)) if byte else _spelled(token.replace("\u2581", " "))
        return _spelled(self.tokenizer.decode([i]))

    def _encode(self, spelling: str) -> Ids | None:
        """The ids that the tokenizer makes for this spelling. None if it makes none.

        One extra space at the start is accepted, since some tokenizers always write one there.
        """
        try:
            text = spelling.encode("latin-1").decode()
        except UnicodeError:
            return None
        spaced = None
        for ids in self._ways(text):
            own = "".join(self.pieces(ids))
            if own == spelling:
                return ids
            if own == " " + spelling and spaced is None:
                spaced = ids
        return spaced

    def _ways(self, text: str) -> Iterable[Ids]:
        yield encode(self.tokenizer, text)
        if text.startswith(" "):  # SentencePiece adds a space at the start itself
            yield encode(self.tokenizer, text[1:])
        for other in LEADS:  # and adds none behind other text
            yield encode(self.tokenizer, other + text)[len(encode(self.tokenizer, other)) :]


def encode(tokenizer: Any, text: str) -> Ids:
    """The ids of `text`, without special tokens: a rendered template holds BOS if the model wants it."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()


def _spelled(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").decode("latin-1")
