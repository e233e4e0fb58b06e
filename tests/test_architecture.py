"""Rules that keep the packages apart, and the public surface."""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import re
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest
from tree import ROOT, imports, modules, packages, places

import memvec

DOTTED = re.compile(r"(?<![\w./-])memvec(?:\.[a-zA-Z_]\w*)+")
NO_NAMES = {
    "memvec.NAME",
    "memvec.adapter",
    "memvec.json",
    "memvec.no_such_module.x",
    "memvec.thing",
    "memvec.verb",
}  # of files, or made up
HEAVY = ("torch", "transformers", "faiss", "peft")


def python(program: str, *args: object) -> str:
    done = subprocess.run([sys.executable, "-c", program, *map(str, args)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["info"], ["show", "prose.txt"], ["verify"], ["models"]])
def test_light_commands(packed: Path, arguments: list[str]) -> None:
    """Commands that need no model load none of the heavy libraries."""
    if arguments[0] in ("list", "info", "show", "verify"):
        arguments = [arguments[0], str(packed), *arguments[1:]]
    program = (
        "import sys; from memvec.cli.main import run; assert run(sys.argv[1:]) == 0\n"
        f"print('\\nLOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert python(program, *arguments).splitlines()[-1] == "LOADED []"


def test_light_import() -> None:
    """`import memvec` loads none of them either."""
    assert python(f"import sys, memvec; print([m for m in {HEAVY!r} if m in sys.modules])").strip() == "[]"


def test_formats_alone(packed: Path) -> None:
    """formats works without any model library."""
    program = (
        f"import sys\nfor name in {(*HEAVY, 'click')!r}: sys.modules[name] = None\n"
        "from memvec.store.store import Store; import memvec.formats.shard, memvec.formats.manifest\n"
        "print(len(list(Store.open(sys.argv[1]).shard(0))))"
    )
    assert int(python(program, packed)) > 10


def test_bare_names() -> None:
    """`import cli` fails and names memvec.cli."""
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "for name in ('cli', 'formats', 'integrations'):\n"
        "    try: __import__(name)\n"
        "    except ImportError as e: assert f'memvec.{name}' in str(e)\n"
        "    else: raise SystemExit(name)\n"
    )
    python(program)


def test_exports() -> None:
    """Every exported name exists."""
    for name in memvec.__all__:
        assert getattr(memvec, name) is not None
    assert set(memvec._EXPORTS) - {"list", "open"} | {"__version__"} == set(memvec.__all__) <= set(dir(memvec))
    assert memvec.list is memvec.documents
    with pytest.raises(AttributeError, match="nothing"):
        _ = memvec.nothing  # type: ignore[attr-defined]


def test_star_import() -> None:
    assert not set(memvec.__all__) & set(dir(builtins)) and "documents" in memvec.__all__


def test_all_depths_are_checked() -> None:
    found = {file.relative_to(ROOT).as_posix() for file in modules()}
    assert {"memvec/errors.py", "cli/main.py", "formats/shard.py", "integrations/peft_adapter.py"} <= found
    assert not any(name.startswith("memvec/cli/") for name in found)


def test_package_names() -> None:
    """Importing `memvec.models.x` would replace the function `memvec.models` by a package."""
    assert not {name.removeprefix("memvec.") for name in packages()} & set(memvec._EXPORTS)


def test_folder_sizes() -> None:
    """No folder holds more than 12 modules."""
    for folder in {file.parent for file in modules("memvec")}:
        assert len([f for f in modules("memvec") if f.parent == folder and f.name != "__init__.py"]) <= 12, folder


def circles(graph: Mapping[str, Collection[str]]) -> set[tuple[str, ...]]:
    """The groups of nodes that reach each other. Tarjan's algorithm, one depth-first walk."""
    found: set[tuple[str, ...]] = set()
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], index[other])
        if lowest[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1 or node in graph[node]:
                found.add(tuple(sorted(group)))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_circles() -> None:
    """No module imports itself by way of others. Imports in functions and for types count."""
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d", "a"}}) == {("b", "c"), ("d",)}
    assert circles({name: imports(file) for name, file in places().items()}) == set()


def dotted(file: Path) -> set[str]:
    """Names such as memvec.store.lock in the strings of a file, which it may hand to monkeypatch or another process."""
    strings = [node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]
    found = [name for text in strings if isinstance(text, str) for name in DOTTED.findall(text)]
    return {name for name in found if not name.endswith("_")} - NO_NAMES


def resolves(name: str) -> bool:
    """Does the name lead to a module, or to something that a module holds?"""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.import_module(".".join(parts[:size]))
            return size == len(parts) or hasattr(found, parts[size])
    return False


def test_names_in_strings_exist() -> None:
    """A module that moves takes along the names in strings: no import tells that they are wrong."""
    files = [*modules(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    wrong = {(file.name, name) for file in files for name in dotted(file) if not resolves(name)}
    assert not resolves("memvec.no_such_module.x") and resolves("memvec.store.lock.writing")
    assert wrong == set()


def test_empty_packages() -> None:
    """A re-export in `__init__.py` would load torch on `memvec list`."""
    for name, folder in packages().items():
        if folder.parent == ROOT / "memvec":
            (docstring,) = ast.parse((folder / "__init__.py").read_text()).body
            assert isinstance(docstring, ast.Expr), name


def test_sizes() -> None:
    """A module has at most 400 lines, and nine functions of ten at most 40."""
    lengths = []
    for file in modules():
        text = file.read_text()
        assert len(text.splitlines()) <= 400, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                lengths.append((node.end_lineno or 0) - node.lineno + 1)
    assert sorted(lengths)[int(len(lengths) * 0.9)] <= 40


def test_docstrings_exist() -> None:
    """Modules, public functions and public classes have docstrings."""
    for file in modules():
        tree = ast.parse(file.read_text())
        assert ast.get_docstring(tree), file
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                nested = any(
                    node in ast.walk(f) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) and f is not node
                )
                assert nested or ast.get_docstring(node), f"{file.name}: {node.name}"


def test_no_pickle() -> None:
    for file in modules():
        text = file.read_text()
        assert "torch.load" not in text and "pickle" not in text, file
