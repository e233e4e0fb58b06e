"""Reference pages made from memvec itself: API, settings, errors, arguments of `generate`, JSON output, included files."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import io
import re
import sys
import textwrap
import tokenize
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints
from unittest import mock

from figures import FigureError
from result_tables import markdown

ROOT = Path(__file__).parents[2]
# Where names stand that are no part of the API and may move.
GENERATE_TABLE = ("memvec.memory.options", "table")
EXIT_CODES_TABLE = ("memvec.cli.exit_codes", "table")
SCHEMAS = ROOT / "cli" / "schemas"

UNLISTED = {"open"}  # exported, but not in __all__: `from memvec import *` must not replace Python's
# Every exported name, in the order of the page. A test fails when one is missing.
GROUPS = {
    "Pack and unpack": (
        "pack",
        "add",
        "unpack",
        "read",
        "cat",
        "Source",
        "PackSettings",
        "ContextSettings",
        "KVSettings",
        "CorpusSettings",
        "estimate",
    ),
    "Look": ("documents", "info", "show", "verify", "diff", "fingerprint", "models", "Store"),
    "Memories": ("load_memory", "Memory", "attached", "generate", "compare", "evaluate", "Question"),
    "Search": ("search", "Searcher", "build_index"),
    "Keep a store": ("rm", "compact", "gc", "merge", "export_store", "import_store", "repair"),
    "Measure": ("calibrate", "capacity", "CapacitySettings"),
    "Open a store once": ("open", "Runtime", "unload"),
    "Errors": ("MemvecError",),
}


def api() -> str:
    """A heading for each group and an entry of mkdocstrings for each exported name."""
    memvec = importlib.import_module("memvec")
    listed = {name for names in GROUPS.values() for name in names}
    exported = {name for name in memvec.__all__ if not name.startswith("__")} | UNLISTED
    if listed != exported:
        raise FigureError(f"GROUPS of docs/hooks/reference.py and memvec.__all__ differ in {sorted(listed ^ exported)}")
    return "\n\n".join(
        "\n\n".join([f"## {group}", *(f"::: memvec.{name}" for name in names)]) for group, names in GROUPS.items()
    )


def generate_arguments() -> str:
    """The table of the arguments of `generate`."""
    return _called(GENERATE_TABLE)


def exit_codes() -> str:
    """The table of errors and exit codes."""
    return _called(EXIT_CODES_TABLE)


def _called(place: tuple[str, str]) -> str:
    module, name = place
    made: str = getattr(importlib.import_module(module), name)()
    return made


def error_classes() -> str:
    """An entry of mkdocstrings for each error class, in the order of the source."""
    errors = importlib.import_module("memvec.errors")
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    return "\n\n".join(_entry(cls) for cls in classes if cls.__module__ == errors.__name__)


def _entry(cls: type) -> str:
    return f"::: {cls.__module__}.{cls.__qualname__}\n    options:\n      show_root_full_path: false"


def types() -> str:
    """An entry for each class that a verb returns or that such a class holds, with a table of its fields."""
    parts = []
    for cls in sorted(returned_classes(), key=lambda cls: cls.__name__):
        comments = _comments(cls)
        if isinstance(cls, enum.EnumMeta):
            members = [[f"`{one.name}`", f"`{one.value!r}`", comments.get(one.name, "")] for one in cls]
            table = markdown(["member", "value", "meaning"], members, right=False)
        elif is_dataclass(cls):
            rows = [[f"`{f.name}`", f"`{_plain(f.type)}`", comments.get(f.name, "")] for f in fields(cls)]
            table = markdown(["field", "type", "meaning"], rows, right=False) if rows else ""
        else:
            table = ""
        parts += [_entry(cls), table]
    return "\n\n".join(part for part in parts if part)


def returned_classes() -> set[type]:
    """Classes of memvec, beside the exported ones, that exported functions and methods return, with what they hold."""
    memvec = importlib.import_module("memvec")
    exported = [getattr(memvec, name) for names in GROUPS.values() for name in names]
    methods = [value for cls in exported if isinstance(cls, type) for value in _public(cls)]
    verbs = [value for value in [*exported, *methods] if inspect.isfunction(value)]
    hints = [_evaluated(value.__annotations__.get("return"), value.__module__) for value in verbs]
    found: set[type] = set()
    while hints:
        hint = hints.pop()
        hints += get_args(hint)
        ours = isinstance(hint, type) and hint.__module__.partition(".")[0] == "memvec"
        if ours and hint not in found and (is_dataclass(hint) or isinstance(hint, enum.EnumMeta)):
            found.add(hint)
            hints += [_evaluated(said, hint.__module__) for said in inspect.get_annotations(hint).values()]
    return {cls for cls in found if cls not in exported}


def _evaluated(annotation: Any, module: str) -> Any:
    """The type that an annotation of `module` names, also where the module imports it for type checkers alone."""
    if not isinstance(annotation, str):
        return annotation
    loaded = [vars(value) for name, value in sys.modules.items() if name.startswith("memvec.") and value]
    names = {name: value for module_names in loaded for name, value in module_names.items()}
    annotated = SimpleNamespace(__annotations__={"it": annotation})
    return get_type_hints(annotated, {**names, **vars(sys.modules[module])})["it"]


def _public(cls: type) -> list[Any]:
    return [getattr(cls, name) for name in vars(cls) if not name.startswith("_")]


def settings(name: str) -> str:
    """A row for each field of an exported dataclass: type, default, range and the comment behind it."""
    cls = getattr(importlib.import_module("memvec"), name)
    comments, (bounds, choices) = _comments(cls), _bounds(cls)
    rows = []
    for field in fields(cls):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        low_high = bounds.get(field.name)
        span = f"{_short(low_high[0])} to {_short(low_high[1])}" if low_high else ""
        if accepted := choices.get(field.name):
            span = ", ".join(f"`{value!r}`" for value in accepted)
        rows.append(
            [f"`{field.name}`", f"`{_plain(field.type)}`", f"`{default!r}`", span, comments.get(field.name, "")]
        )
    return markdown(["setting", "type", "default", "range", "meaning"], rows, right=False)


def _plain(kind: Any) -> str:
    return str(kind).replace(" | ", "` or `")


def _short(value: float) -> str:
    """A bound as a reader says it: powers of ten and of two as powers."""
    if value == int(value) >= 1_000_000:
        power = int(value).bit_length()
        if int(value).bit_count() in (1, power):  # 2^n, or 2^n − 1
            return f"2<sup>{power - 1}</sup>" if int(value).bit_count() == 1 else f"2<sup>{power}</sup> − 1"
    if value and not 0.001 <= value < 1_000_000:
        digits, _, power = f"{value:.0e}".partition("e")
        return f"{'' if digits == '1' else f'{digits} × '}10<sup>{int(power)}</sup>".replace("-", "−")
    return f"{value:,g}"


def _comments(cls: type) -> dict[str, str]:
    """The comment on the line of each field; lines of comment alone go with the field below."""
    source, found, above = textwrap.dedent(inspect.getsource(cls)), {}, list[str]()
    notes = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    targets = [
        (node.lineno, target)
        for node in ast.parse(source).body[0].body  # type: ignore[attr-defined]
        for target in ([node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", []))
    ]
    names = {line: target.id for line, target in targets if isinstance(target, ast.Name)}
    for number in range(1, source.count("\n") + 1):
        if number in names:
            found[names[number]] = " ".join([*above, *([notes[number]] if number in notes else [])])
        above = [*above, notes[number]] if number in notes and number not in names else []
    return found


def _bounds(cls: type) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[Any, ...]]]:
    """The ranges and choices that `__post_init__` passes to `check_fields`. Empty for a class that checks none."""
    module = importlib.import_module(cls.__module__)
    if not hasattr(module, "check_fields"):
        return {}, {}
    with mock.patch.object(module, "check_fields") as check:
        cls()
    bounds, choices = [*check.call_args.args[1:], {}, {}][:2] if check.called else ({}, {})
    return dict(bounds), dict(choices)


def included(path: str) -> str:
    """A file of the repository, without its first heading; links to other files of it become plain code."""
    text = (ROOT / path).read_text("utf-8")
    text = re.sub(r"\A# .*\n", "", text)
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)]+)\)", r"\1", text)


def default_of(name: str, field: str) -> str:
    """The default of one setting, as a page says it."""
    value: Any = getattr(getattr(importlib.import_module("memvec"), name)(), field)
    return f"{value:g}" if isinstance(value, float) else str(value)
