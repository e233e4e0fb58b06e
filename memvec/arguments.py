"""Checks of arguments. In all public functions a parameter of one name follows one rule, checked before any work.

A rule takes the name of an argument and its value and returns the value to use. It raises UsageError with
the expected and the found value. A function has its arguments checked by `@checked()`.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import os
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_args

from memvec.causes import enough_memory
from memvec.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")
Rule = Callable[[str, Any], Any]

LARGEST_SEED = 2**64 - 1  # torch takes no larger one
MOST_BATCH = 1 << 20
MOST_HITS = 10_000


def wrong(name: str, value: object, expected: str) -> UsageError:
    """The error for an argument that does not follow its rule."""
    return UsageError(f"{name} is {_shown(value)}, expected {expected}.")


def _shown(value: object) -> str:
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


def choice(*accepted: str) -> Rule:
    """One of these strings."""
    *others, last = accepted
    expected = f"{', '.join(others)} or {last}" if others else last

    def rule(name: str, value: Any) -> Any:
        if not isinstance(value, str) or value not in accepted:
            raise wrong(name, value, expected)
        return value

    return rule


def among(*accepted: int) -> Rule:
    """One of these whole numbers."""
    *others, last = accepted

    def rule(name: str, value: Any) -> int:
        try:
            found = operator.index(value)
        except TypeError:
            found = None
        if isinstance(value, bool) or found not in accepted:
            raise wrong(name, value, f"{', '.join(map(str, others))} or {last}")
        return found

    return rule


def literal(kind: Any) -> Rule:
    """One of the values of a Literal."""
    return choice(*get_args(kind))


def whole(low: int, high: int | None = None) -> Rule:
    """A whole number in a range. Numpy's integers are accepted, True and 1.0 are not."""
    expected = f"{low} or more" if high is None else f"{low} to {high}"
    expected += ", as a whole number"

    def rule(name: str, value: Any) -> int:
        if isinstance(value, bool):
            raise wrong(name, value, expected)
        try:
            number = operator.index(value)
        except TypeError as error:
            raise wrong(name, value, expected) from error
        if number < low or (high is not None and number > high):
            raise wrong(name, value, expected)
        return number

    return rule


def number(low: float, high: float = math.inf, above: bool = False) -> Rule:
    """A number in a range that includes its ends, or with `above` excludes `low`. NaN is outside of any range."""
    expected = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
    if above:
        expected = f"more than {low:g}"

    def rule(name: str, value: Any) -> float:
        fits = isinstance(value, int | float) or hasattr(value, "__float__")
        if isinstance(value, bool | str | bytes) or not fits:
            raise wrong(name, value, expected)
        try:
            found = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # a huge int, an array of several numbers
            raise wrong(name, value, expected) from error
        if not low <= found <= high or (above and found == low):
            raise wrong(name, value, expected)
        return found if not isinstance(value, int) else value

    return rule


def score(name: str, value: Any) -> Any:
    """A number or "auto"."""
    if isinstance(value, str) and value == "auto":
        return value
    try:
        return number(-math.inf)(name, value)
    except UsageError as error:
        raise wrong(name, value, "a number or 'auto'") from error


def of_type(kind: type, expected: str) -> Rule:
    """A value of this type."""

    def rule(name: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise wrong(name, value, expected)
        return value

    return rule


flag = of_type(bool, "True or False")  # a text such as "no" would count as True
text = of_type(str, "a string")  # which may be empty


def name(name: str, value: Any) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value:
        raise wrong(name, value, "a string that is not empty")
    return value


def path(name: str, value: Any) -> Any:
    """A path as a string or a pathlib.Path. An empty one would mean the current folder."""
    found = os.fspath(value) if isinstance(value, str | os.PathLike) else value
    if not isinstance(found, str) or not found or "\0" in found:
        raise wrong(name, value, "a path, as a string that is not empty or a pathlib.Path")
    return value


def store(name: str, value: Any) -> Any:
    """A path, a Store or a Runtime, which is a path as well."""
    return value if hasattr(value, "manifest") else path(name, value)


def model(name: str, value: Any) -> str:
    """A model's name or folder, as a string."""
    return str(path(name, value))


def several(rule: Rule, kind: str, alone: tuple[type, ...] = (str, Path), stream: bool = False) -> Rule:
    """A list whose items follow `rule`. A single item is made one. So is an iterator, but not with `stream`: it may be long."""

    def checked_all(name: str, value: Any) -> Any:
        if stream and isinstance(value, Iterator):
            return (rule(f"{name}[{number}]", item) for number, item in enumerate(value))
        if isinstance(value, alone) or _is_source(value):
            value = (value,)
        if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
            raise wrong(name, value, f"a list of {kind}")
        return tuple(rule(f"{name}[{number}]", item) for number, item in enumerate(value))

    return checked_all


def mapping(rule: Rule, expected: str) -> Rule:
    """A dict of names; its values follow `rule`."""

    def checked_all(name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise wrong(name, value, expected)
        for key, item in value.items():
            text(f"a key of {name}", key)
            rule(f"{name}[{key!r}]", item)
        return value

    return checked_all


def instance(cls: type) -> Rule:
    """An object of this class."""

    def rule(name: str, value: Any) -> Any:
        if not isinstance(value, cls):
            raise wrong(name, value, f"a {cls.__name__}")
        return value

    return rule


def path_or(other: Rule) -> Rule:
    """A path, or what another rule accepts."""

    def rule(name: str, value: Any) -> Any:
        return (path if isinstance(value, str | os.PathLike) else other)(name, value)

    return rule


def optional(other: Rule) -> Rule:
    """None, or what another rule accepts. For a parameter whose default is something else."""

    def rule(name: str, value: Any) -> Any:
        return None if value is None else other(name, value)

    return rule


class Keywords:
    """Rules for `**keywords`, by the name of each. No other names are accepted."""

    def __init__(self, **rules: Rule) -> None:
        self.rules = rules

    def __call__(self, name: str, value: Mapping[str, Any]) -> dict[str, Any]:
        """The values to use; `name` is that of the function. TypeError, as Python says it, for a name without a rule."""
        for key in value:
            if key not in self.rules:
                raise TypeError(f"{name}() got an unexpected keyword argument {key!r}")
        return {key: self.rules[key](key, item) for key, item in value.items()}


def function(name: str, value: Any) -> Any:
    """Something that can be called."""
    if not callable(value):
        raise wrong(name, value, "a function")
    return value


def anything(name: str, value: Any) -> Any:
    """For arguments that their function checks itself."""
    return value


def _is_source(value: Any) -> bool:
    """Is it a `Source`? Its class stands above this module."""
    return hasattr(type(value), "sha256")


def _source(name: str, value: Any) -> Any:
    if not _is_source(value):
        return path(name, value)
    if not isinstance(value.data, bytes):
        raise wrong(f"the data of {name}", value.data, "bytes; encode a text")
    text(f"the name of {name}", value.name)
    if value.meta is not None:
        mapping(text, "a dict of strings")(f"the metadata of {name}", value.meta)
    return value


seed: Rule = whole(0, LARGEST_SEED)
count: Rule = whole(1)
names: Rule = several(name, "strings", (str,))

# By the name of a parameter. A function gives `checked` the rules that are its own.
RULES: dict[str, Rule] = {
    "store": store, "stores": several(path, "paths"), "sources": several(_source, "paths and Sources", stream=True),
    "exact": path, "file": path, "folder": path, "output": path, "path": path,
    "document": name, "name": name, "documents": names, "include": names, "exclude": names, "keys": names,
    "model": model, "device": name, "dtype": choice("bfloat16", "float32"), "embedder": name, "factory": name,
    "batch": whole(1, MOST_BATCH), "limit": whole(0), "k": whole(1, MOST_HITS), "count": count, "segments": count,
    "max_new_tokens": count, "vectors": several(count, "whole numbers", ()), "seed": seed,
    "lock_wait": number(0), "max_seconds": number(0, above=True), "temperature": number(0, sys.float_info.max, above=True),
    "min_score": score, "query": text, "answer": text, "prompt": anything, "sample": flag,
    "decode": flag, "dry_run": flag, "memories": flag, "off_topic": flag, "overwrite": flag, "probe": flag, "keep": whole(0),
    "random_words": flag, "ranked": flag, "rename_collisions": flag, "reuse": flag, "trial": flag, "yes": flag,
    "meta": mapping(text, "a dict of strings"), "where": mapping(text, "a dict of strings"),
    "texts": mapping(text, "a dict of texts by name"), "generate": function, "notify": function, "watch": function,
}  # fmt: skip
# Keyword arguments of `memvec.open`, which every verb takes that reads a store; and those that name no model.
RUNNING = Keywords(device=optional(name), watch=function)
RULES["opening"] = Keywords(**RUNNING.rules, model=optional(model), batch=optional(RULES["batch"]))
BYTES = mapping(of_type(bytes, "bytes"), "a dict of bytes by name")


def checked(**own: Rule) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Have the arguments of a function checked by RULES, and by the rules of `own` for parameters named there.

    An argument that is the parameter's default is always accepted. If memory runs out in the function, it raises
    OutOfMemoryError.
    """

    def decorate(decorated: Callable[P, T]) -> Callable[P, T]:
        signature, own_name = inspect.signature(decorated), decorated.__qualname__
        what = _work(own_name)
        rules = {key: own.get(key) or RULES.get(key) for key in signature.parameters}

        @functools.wraps(decorated)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return decorated(*args, **kwargs)  # Python says it best
            for key, value in bound.arguments.items():
                rule = rules[key]
                if rule is not None and value is not signature.parameters[key].default:
                    bound.arguments[key] = rule(own_name if isinstance(rule, Keywords) else key, value)
            with enough_memory(what):
                result = decorated(*bound.args, **bound.kwargs)
            return _guarded(result, what) if inspect.isgenerator(result) else result  # type: ignore[return-value]

        wrapper.rules = rules  # type: ignore[attr-defined]  # for the test that no parameter is forgotten
        return wrapper

    return decorate


def _work(name: str) -> str:
    """The work of a function in words, from its qualified name."""
    *_, owner, own = ["", *name.split(".")]
    return f"make a {owner}" if own == "__init__" else own.replace("_", " ").strip()


def _guarded(items: Iterator[Any], what: str) -> Iterator[Any]:
    with enough_memory(what):
        yield from items
