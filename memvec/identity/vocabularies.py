"""Compare a loaded tokenizer with a checkpoint's, leaving out special tokens that were added to it.

A padding token that is added to a tokenizer changes its vocabulary, but not how it splits text.
"""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Collection
from typing import Any

from memvec.checkpoints import traits
from memvec.types import Identity

# A token that is added to a tokenizer after the check changes its length, or how it splits this text.
MARKER = "Two  words, caf\u00e9 1,000\r\n<pad>[PAD]"
MARKED = re.compile(r"[^\w\s].*\w.*[^\w\s]")  # [PAD], <|pad|>: text does not hold it by chance
GUESSES = 8  # most added tokens that are tried if the checkpoint's number of tokens is unknown

_known: weakref.WeakKeyDictionary[Any, dict[str, tuple[Any, tuple[str, str]]]] = weakref.WeakKeyDictionary()


def traits_of(tokenizer: Any, expected: Identity) -> tuple[str, str]:
    """The digests of a tokenizer's vocabulary and of its tokenizer strings, without special tokens that were added to it.

    They are computed once for each tokenizer object and vocabulary, and again after a change.
    """
    fingerprint = expected.fingerprint
    key = f"{fingerprint.vocabulary} {fingerprint.probe}"
    stamp = len(tokenizer), tuple(tokenizer(MARKER, add_special_tokens=False)["input_ids"])
    there = _known.setdefault(tokenizer, {})
    if key not in there or there[key][0] != stamp:
        there[key] = stamp, _read(tokenizer, expected)
    return there[key][1]


def _read(tokenizer: Any, expected: Identity) -> tuple[str, str]:
    tokens = tokenizer.get_vocab()
    vocabulary, probe = traits.vocabulary_of(tokens), traits.probe(tokenizer)
    if vocabulary == expected.fingerprint.vocabulary:
        return vocabulary, probe
    added = _added(tokenizer, tokens, expected)
    if not added:
        return vocabulary, probe
    return expected.fingerprint.vocabulary, _probe_without(tokenizer, added) or probe


def _added(tokenizer: Any, tokens: dict[str, int], expected: Identity) -> set[int]:
    """Ids of the special tokens at the end that must be left out to get the expected vocabulary; empty if that fails."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if _harmless(token)}
    ordered = sorted(tokens.items(), key=lambda pair: pair[1])
    most = next((at for at, (_, number) in enumerate(reversed(ordered)) if number not in special), len(ordered))
    known = expected.probe.get("tokens")
    counts = [len(ordered) - known] if isinstance(known, int) else range(1, GUESSES + 1)
    for count in counts:
        if 0 < count <= most and traits.vocabulary_of(dict(ordered[:-count])) == expected.fingerprint.vocabulary:
            return {number for _, number in ordered[-count:]}
    return set()


def _harmless(token: Any) -> bool:
    """Is this added token special and unlike ordinary text, as <pad> is?"""
    return bool(token.special and MARKED.fullmatch(token.content))


def _probe_without(tokenizer: Any, added: Collection[int]) -> str | None:
    """The digest of the tokenizer strings without some added tokens; None if they cannot be taken out."""
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        return None
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] not in added]
    clean = Tokenizer.from_str(json.dumps(state | {"truncation": None, "padding": None}))
    return traits.sha256([clean.encode(text, add_special_tokens=False).ids for text in traits.PROBES])
