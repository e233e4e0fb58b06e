"""Prompts on subjects of no document. Training leaves their answers as they are, and evaluation measures the harm to them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Passage:
    """A prompt and a good answer of some sixty words."""

    prompt: str
    continuation: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A question of general knowledge with four answers."""

    question: str
    choices: tuple[str, ...]
    answer: int  # index of the right one


@cache
def prompts() -> tuple[str, ...]:
    """Prompts to train on. No passage has one of them."""
    return tuple(line for line in _read("prompts.txt").splitlines() if line)


@cache
def passages() -> tuple[Passage, ...]:
    """Prompts with answers, to measure with."""
    return tuple(Passage(**json.loads(line)) for line in _read("passages.jsonl").splitlines())


@cache
def unseen_documents() -> tuple[tuple[str, str], ...]:
    """Questions about documents that do not exist, with answers, to train on."""
    rows = [json.loads(line) for line in _read("elsewhere.jsonl").splitlines()]
    return tuple((row["question"], row["answer"]) for row in rows)


@cache
def choices() -> tuple[Choice, ...]:
    """Multiple-choice questions, to measure with."""
    rows = [json.loads(line) for line in _read("choices.jsonl").splitlines()]
    return tuple(Choice(row["question"], tuple(row["choices"]), row["answer"]) for row in rows)


def _read(name: str) -> str:
    return (files("memvec") / "data" / name).read_text("utf-8")
