"""Invalid arguments give UsageErrors before any work, in every function."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import memvec
from memvec import arguments
from memvec.arguments import LARGEST_SEED, checked
from memvec.cli.main import run
from memvec.errors import NotFoundError, UsageError
from memvec.progress import unwatched
from memvec.retrieval import build as indexing
from memvec.retrieval import search as searching

EXPORTED = {name: getattr(memvec, name) for name in memvec._EXPORTS if inspect.isfunction(getattr(memvec, name))}
OTHERS = {
    "index_info": indexing.index_info,
    "drop_index": indexing.drop_index,
    "retrieve": searching.retrieve,
    "Searcher.search": searching.Searcher.search,
}
# Functions whose arguments are checked elsewhere, or that have none.
UNCHECKED = {"attached": "tests/memvec/test_attach.py", "models": "no arguments"}
FUNCTIONS = {name: function for name, function in (EXPORTED | OTHERS).items() if name not in UNCHECKED}

NUMBERS: list[Any] = ["3", "", b"3", [3], {}, math.nan, True, None]
PATHS: list[Any] = ["", b"store", None, 3, True, ["store"], "a\0b"]
NAMES: list[Any] = ["", b"a.txt", None, 3, True]
LISTS: list[Any] = [b"a.txt", None, 3, [3], [None], [b"a.txt"], [""], {"a": "b"}]
FLAGS: list[Any] = ["no", "", 0, 1, None]
SEEDS: list[Any] = [*NUMBERS, -1, 2**64, 10**40, 1.0, math.inf]
COUNTS: list[Any] = [*NUMBERS, 0, -1, 1.5, 2.0, math.inf]
DICTS: list[Any] = [{"k": 1}, {1: "v"}, [("k", "v")], "k=v", None]
WRONG: dict[str, list[Any]] = {
    "allow": ["exact", "different", "IDENTICAL", "untold", "", None, True, ["identical"]],
    "answer": [b"yes", 3, ["yes"]],
    "batch": [*COUNTS, 2**40],
    "context": [{}, "x", 3],
    "corpus": [{}, "x", 3],
    "form": ["csv", "", None, True, 3, ["jsonl"]],
    "count": COUNTS,
    "decode": FLAGS,
    "device": [b"cpu", "", 0, ["cpu"]],
    "document": NAMES,
    "documents": LISTS,
    "dry_run": FLAGS,
    "dtype": ["float64", "", b"float32", 32, "torch.float32", ["float32"]],
    "embedder": [b"lm", "", 3],
    "exact": PATHS,
    "exclude": LISTS,
    "factory": [b"Flat", "", 3],
    "file": PATHS,
    "generate": ["x", 3],
    "include": LISTS,
    "k": [*COUNTS, 10_001],
    "keep": [*NUMBERS, -1, 1.5],
    "keys": LISTS,
    "kind": ["Exact", "", None, b"exact", 3, ["exact"]],
    "kv": [{}, "x", 3],
    "limit": [*NUMBERS, -1, 1.5],
    "lock_wait": [*NUMBERS, -1, -math.inf],
    "max_new_tokens": COUNTS,
    "max_seconds": [*NUMBERS, 0, -1],
    "memories": FLAGS,
    "meta": DICTS,
    "min_score": [*NUMBERS, "AUTO", "none"],
    "model": [b"m", "", 3, True, ["m"]],
    "name": NAMES,
    "notify": ["x", 3],
    "off_topic": FLAGS,
    "on_error": ["raise", "FAIL", "", None, True],
    "output": PATHS,
    "overwrite": FLAGS,
    "path": PATHS,
    "preset": ["slow", "Fast", "", 3],
    "probe": FLAGS,
    "query": [b"words", None, 3, ["words"]],
    "questions": [3, None, [3], ["Who?"], [{"question": "Who?"}], b"q.jsonl"],
    "random_words": FLAGS,
    "rename_collisions": FLAGS,
    "ranked": FLAGS,
    "reuse": FLAGS,
    "trial": FLAGS,
    "sample": FLAGS,
    "seed": SEEDS,
    "segments": COUNTS,
    "settings": [{}, "x", 3],
    "sources": [b"a.txt", None, 3, [3], [None], [b"a.txt"], [""]],
    "store": PATHS,
    "stores": [b"a.txt", None, 3, [3], [None], [b"a.txt"], [""]],
    "temperature": [*NUMBERS, 0, -1.0, math.inf],
    "template": ["Chat", "", None, 3],
    "texts": ["x", [("a", "b")], {"a": 3}, {1: "b"}],
    "using": ["Vectors", "both", "", None, 3],
    "vectors": ["12", 3, None, [0], [1.5], ["1"], [True], [-1]],
    "watch": ["x", 3, None],
    "where": DICTS,
    "yes": FLAGS,
}
# Values for required parameters. None of these stores and files exists.
REQUIRED: dict[str, Any] = {
    "store": "no/store", "stores": ["no/store"], "sources": ["no/file"], "output": "no/output", "path": "no/path",
    "file": "no/file", "document": "a.txt", "name": "a.txt", "documents": ["a.txt"], "prompt": "words", "query": "words",
    "questions": "no/questions", "texts": {"a": "text"}, "model": "no/model", "count": 3, "self": None,
}  # fmt: skip
OWN = {
    ("verify", "sample"): ["x", "", "0", "101%", True, 1.5, -1, "5%%", b"5%"],  # here it is a count or a share
    ("retrieve", "min_score"): ["3", "AUTO", [3], math.nan, True],  # None takes every hit here
}


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function, and the keywords that it takes as `**opening`."""
    found = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    named = getattr(function.rules.get("opening"), "rules", {})  # type: ignore[attr-defined]
    defaults: dict[str, Any] = {"watch": unwatched}
    return found + [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name)) for name in named
    ]


CASES = [
    pytest.param(name, parameter, id=f"{name}-{parameter.name}")
    for name, function in FUNCTIONS.items()
    for parameter in parameters(function)
    if parameter.name in WRONG
]


@pytest.mark.parametrize("name", EXPORTED)
def test_every_parameter_has_a_rule(name: str) -> None:
    """A new function is decorated, and a new parameter gets a rule and wrong values."""
    if name in UNCHECKED:
        return
    rules = getattr(EXPORTED[name], "rules", None)
    assert rules is not None, "decorate it with @checked()"
    rules = rules | getattr(rules.get("opening"), "rules", {})
    for parameter in parameters(EXPORTED[name]):
        assert rules[parameter.name] is not None, f"{parameter.name} has no rule in memvec/arguments.py"
        assert parameter.name in WRONG or parameter.name in ("prompt",), f"no wrong values of {parameter.name} here"


@pytest.mark.parametrize(("name", "parameter"), CASES)
def test_wrong_values(name: str, parameter: inspect.Parameter) -> None:
    """No store and no model exist here, so a function that looked for them first would raise NotFoundError."""
    function, own = FUNCTIONS[name], parameter.name
    needed = {p.name: REQUIRED[p.name] for p in parameters(function) if p.default is p.empty}
    if (name, own) == ("verify", "sample"):
        needed["decode"] = True
    for value in OWN.get((name, own), WRONG[own]):
        if value is not parameter.default:
            with pytest.raises(UsageError, match=rf"{own}.* is .*expected ") as caught:
                function(**needed | {own: value})
            assert caught.value.exit_code == 2 and str(caught.value).endswith(".")


CHOICES: list[Any] = ["Head", "", b"even", 3, None, ["even"], True]
BAD: dict[str, list[Any]] = {
    "bool": FLAGS,
    "int": [*NUMBERS, -1, 1.5, 2**70],
    "float": [*NUMBERS, -1.0, math.inf, 1e300],
}
SETTINGS = [
    pytest.param(cls, field, id=f"{cls.__name__}-{field.name}")
    for cls in (memvec.PackSettings, memvec.ContextSettings, memvec.KVSettings, memvec.CapacitySettings)
    for field in fields(cls)
]


@pytest.mark.parametrize(("cls", "field"), SETTINGS)
def test_wrong_settings(cls: Any, field: Any) -> None:
    kind = str(field.type)
    for value in CHOICES if kind.startswith("Literal") else BAD[kind.removesuffix(" | None")]:
        if value is not None or not kind.endswith("None"):
            with pytest.raises(UsageError, match=rf"{field.name} is .*expected "):
                cls(**{field.name: value})


def test_numpy_numbers() -> None:
    """They become Python's, because settings and reports are written as JSON."""
    made = memvec.PackSettings(seed=np.int64(3), margin=np.float32(0.5), segment_tokens=np.uint8(32))  # type: ignore[arg-type]
    assert made == memvec.PackSettings(seed=3, margin=0.5, segment_tokens=32)
    assert [type(value) for value in (made.seed, made.margin, made.segment_tokens)] == [int, float, int]
    assert memvec.PackSettings(seed=LARGEST_SEED).seed == LARGEST_SEED


def test_lone_name(packed: Path) -> None:
    """A string is not split into letters, and an iterator is read once."""
    (row,) = memvec.list(packed, "prose.txt")  # type: ignore[arg-type]
    assert row.name == "prose.txt"
    assert [name for name, _ in memvec.read(packed, iter(["one-byte", "empty"]))] == ["empty", "one-byte"]  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="no/folder"):
        memvec.estimate("no/folder", packed)  # type: ignore[arg-type]


def test_paths(packed: Path, tiny: str) -> None:
    assert memvec.fingerprint(Path(tiny)) == memvec.fingerprint(tiny)  # type: ignore[arg-type]
    assert memvec.cat(str(packed), "one-byte") == memvec.cat(packed, "one-byte") == b"x"


def test_python_errors(packed: Path) -> None:
    """Missing and unknown arguments give Python's own errors."""
    with pytest.raises(TypeError, match=r"cat.. missing 1 required positional argument: 'document'"):
        memvec.cat(packed)  # type: ignore[call-arg]
    calls: list[tuple[str, Callable[..., Any], int]] = [
        ("cat", memvec.cat, 1), ("generate", memvec.generate, 2), ("Searcher.__init__", memvec.Searcher, 1), ("diff", memvec.diff, 1),
    ]  # fmt: skip
    for name, call, positional in calls:
        with pytest.raises(TypeError, match=rf"{name}\(\) got an unexpected keyword argument 'modle'"):
            call(packed, *["one-byte"] * positional, modle="x")
    with pytest.raises(TypeError, match=r"diff\(\) got an unexpected keyword argument 'batch'"):
        memvec.diff(packed, "model", batch=3)  # type: ignore[call-arg]


def test_out_of_memory() -> None:
    """The error names the work in which memory ran out."""

    class Reader:
        @checked()
        def __init__(self) -> None:
            raise MemoryError

        @checked()
        def all_of_it(self) -> None:
            raise MemoryError

    with pytest.raises(memvec.errors.OutOfMemoryError, match="not enough memory to make a Reader"):
        Reader()
    with pytest.raises(memvec.errors.OutOfMemoryError, match="not enough memory to all of it"):
        Reader.all_of_it(object.__new__(Reader))


@pytest.mark.parametrize("value", [10**400, np.ones(2), np.array("x"), torch.ones(2)])
def test_what_has_no_one_number(value: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lock_wait is .*expected 0 or more"):
        memvec.gc(tmp_path, lock_wait=value)


def test_own_rules() -> None:
    """A function's own rules replace the common ones."""

    @checked(k=arguments.whole(1, 3))
    def shown(k: int = 99, *, name: str = "x") -> tuple[int, str]:
        return k, name

    assert shown() == (99, "x") and shown(3, name="y") == (3, "y")  # a default is not checked
    with pytest.raises(UsageError, match="k is 4, expected 1 to 3"):
        shown(4)
    assert inspect.signature(shown).parameters["k"].default == 99 and shown.__name__ == "shown"


@pytest.mark.parametrize(
    "values",
    [("a", "", "x"), (None, "q", "x"), ("a", "q", 3), ("a", " ", "x"), ("a", "\ud800", "x"), ("a", "q", "x", [3])],
)
def test_questions(values: Any) -> None:
    with pytest.raises(UsageError, match=r"(document|question|answer|answers\[0\]) (is .*expected a text|holds half)"):
        memvec.Question(*values)


def test_sources(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the data of sources\[1\] is 'text', expected bytes; encode a text"):
        memvec.pack([memvec.Source("a", b"x"), memvec.Source("b", "text")], tmp_path / "s")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"the name of sources\[0\] is 3"):
        memvec.pack([memvec.Source(3, b"x")], tmp_path / "s")  # type: ignore[arg-type]


@pytest.mark.parametrize("path", PATHS)
def test_store_path(path: Any) -> None:
    with pytest.raises(UsageError, match=r"path is .*expected a path"):
        memvec.Store.open(path)


def test_long_values() -> None:
    with pytest.raises(UsageError) as caught:
        memvec.PackSettings(seed="7" * 10_000)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("seed", [str(2**64), "-1", "9" * 40])
@pytest.mark.parametrize(
    "line",
    [
        "pack IN -o S -m TINY --seed",
        "capacity -m TINY --random-words --seed",
        "verify S --decode --sample 5% --seed",
        "evaluate S --questions Q --seed",
        "generate S words --id a.txt --sample --seed",
    ],
)
def test_seeds(
    line: str, seed: str, packed: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("words")
    (tmp_path / "q").write_text('{"document": "prose.txt", "question": "Who?", "answer": "He"}\n')
    places = {"S": str(packed), "IN": str(tmp_path / "in"), "TINY": tiny, "Q": str(tmp_path / "q")}
    assert run([*(places.get(word, word) for word in line.split()), seed]) == 2
    assert f"seed is {seed}, expected 0 to {LARGEST_SEED}" in capsys.readouterr().err.replace("…", "")
