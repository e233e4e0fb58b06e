"""JSON output: every command has a schema, and its real output conforms to it."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from memvec.cli.main import COMMANDS

Faults = Callable[[str, Any], list[str]]
NAMES = sorted({*COMMANDS} - {"index"} | {"index-build", "index-info", "index-drop"})
TINY = ("--segment-tokens", "16", "-q")


@pytest.fixture
def folder(tmp_path: Path, remembering: Path, packed: Path) -> Path:
    """A folder with everything that the command lines below name."""
    shutil.copytree(remembering, tmp_path / "s")
    shutil.copytree(packed, tmp_path / "p")
    (tmp_path / "t.txt").write_text(
        "It is a truth universally acknowledged, that a single man\nmust be in want of a wife.\n" * 8
    )
    (tmp_path / "raw.bin").write_bytes(b"\0\xff")
    questions = [
        {"document": name, "question": "Who wants a wife?", "answer": "a single man"}
        for name in ("prose.txt", "crlf.txt")
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    asked = {"document": "t.txt", "question": "Who wants a wife?", "answer": "a single man"}
    (tmp_path / "t.jsonl").write_text(json.dumps(asked))
    return tmp_path


# The commands of each schema, run in this order in `folder`. {m} is the tiny LM.
LINES: dict[str, list[str]] = {
    "add": ["add raw.bin -o p -q"],
    "calibrate": ["calibrate -m {m} --text t.txt --segments 1 -q"],
    "capacity": ["capacity -m {m} --text t.txt --passages 1 --steps 5 -q"],
    "cat": ["cat p prose.txt"],
    "compact": ["compact p --dry-run", "compact p"],
    "diff": ["diff p {m}", "diff p {m} --no-probe"],
    "evaluate": [
        "evaluate s --questions q.jsonl --template plain",
        "pack t.txt -o k --kind kv -m {m} -q",
        "evaluate k --kind kv --questions t.jsonl --texts . --template plain",
    ],
    "export": ["export p -o one", "export s --to npy --id prose.txt --prompt x -o n.npy"],
    "fingerprint": ["fingerprint {m}", "fingerprint {m} --tensors"],
    "gc": ["gc p --dry-run", "gc p"],
    "generate": [
        "generate s x --id prose.txt --max-new-tokens 2",
        "generate s x --id prose.txt --max-new-tokens 2 --sample --seed 3",
        "generate s --id prose.txt --as decode",
        "generate s x --id prose.txt --max-new-tokens 2 --compare --answer y",
        "generate s x --id only-memory.txt --max-new-tokens 2 --compare",
        "generate s 'Suggest a healthy breakfast.' --retrieve 1",
    ],
    "import": ["export p -o file -q", "import file -o i"],
    "index-build": ["index build p --factory Flat"],
    "index-drop": ["index drop p"],
    "index-info": ["index info p"],
    "info": ["info p", "info s"],
    "list": ["list p", "list s"],
    "merge": ["merge p s -o new --dry-run", "merge p -o new"],
    "models": ["models"],
    "pack": ["pack t.txt -o new -m {m} {tiny} --dry-run", "pack raw.bin -o new -m {m} -q"],
    "repair": ["repair p", "repair p --yes"],
    "rm": ["rm p *.txt --dry-run", "rm p prose.txt"],
    "search": ["search p wife", "search p wife --decode"],
    "show": ["show s prose.txt", "show s image.png"],
    "unpack": ["unpack s -o partly --doc image.png --doc only-memory.txt", "unpack p -o out --doc image.png"],
    "verify": ["verify p", "verify p --decode --sample 2"],
}  # fmt: skip


def places(schema: Any) -> Iterator[tuple[str, Any]]:
    """Every property with its name, at any depth."""
    if isinstance(schema, dict):
        for name, inner in schema.get("properties", {}).items():
            yield name, inner
        for inner in schema.values():
            yield from places(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from places(inner)


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema of an object, at any depth."""
    if isinstance(schema, dict):
        if schema.get("type") in ("object", ["object", "null"]) and not isinstance(schema.get("type"), dict):
            yield schema
        for inner in schema.values():
            yield from objects(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from objects(inner)


class TestFiles:
    """The files of cli/schemas/."""

    def test_every_command(self, schemas: dict[str, Any]) -> None:
        """A command without a schema fails here, and a schema without a command."""
        assert sorted(schemas) == sorted([*NAMES, "envelope"]) and sorted(LINES) == NAMES

    def test_valid(self, schemas: dict[str, Any]) -> None:
        for schema in schemas.values():
            assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
            Draft202012Validator.check_schema(schema)

    def test_descriptions(self, schemas: dict[str, Any]) -> None:
        """Every property has a sentence of its own, or refers to one."""
        for file, schema in schemas.items():
            for name, inner in places(schema):
                assert inner.get("description", "").endswith(".") or "$ref" in inner, (file, name)

    def test_closed(self, schemas: dict[str, Any]) -> None:
        """No object takes a property that its schema does not name, but maps and a model's own configuration."""
        for file, schema in schemas.items():
            for inner in objects(schema):
                closed = inner.get("additionalProperties") is False and inner.get("properties")
                typed = isinstance(inner.get("additionalProperties"), dict)
                assert closed or typed or file == "fingerprint", (file, inner)


@pytest.mark.parametrize("name", NAMES)
class TestOutput:
    """What each command prints."""

    def test_conforms(
        self, name: str, folder: Path, tiny: str, call: Any, faults: Faults, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The output conforms; with one more property, or one less, it does not."""
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MEMVEC_CACHE", str(folder / "cache"))
        monkeypatch.setattr("memvec.packing.calibrate.RATES", (0.3,))
        monkeypatch.setattr("memvec.packing.calibrate.POINTS", 1)
        if name == "repair":
            (folder / "p" / "manifest.json").write_bytes(b"{")
        if name == "show":
            record = call("show", "s", "prose.txt", "--json").json["parts"][-1]["id"]
            assert call("show", "s", record, "--json").json["kind"] == "context"
        for line in LINES[name]:
            done = call(
                *shlex.split(line.format(m=tiny, tiny=" ".join(TINY))), "--json"
            )  # `call` compares with the schema
            assert "error" not in done.json, done.err
        assert not faults(name, done.json)
        assert faults(name, done.json | {"new": 1})
        for key in done.json:
            less = copy.deepcopy(done.json)
            del less[key]
            assert faults(name, less) or key in ("tensors", "skipped", "text", "interrupted"), key

    def test_error(self, name: str, call: Any) -> None:
        """An error has the same form for every command."""
        done = call(*name.replace("index-", "index ").split(), "--no-such-option", "--json")
        assert done.code == 2 and done.json["error"]["exit_code"] == 2
