"""`call` runs the program in this process. Every JSON object that it prints is compared with its schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from memvec.cli.main import run

SCHEMAS = Path(__file__).parents[2] / "cli" / "schemas"


class Done(NamedTuple):
    """A run that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The object on standard output."""
        return json.loads(self.out)


def command_of(words: Sequence[str]) -> str:
    """The name of a command's schema: `list`, `index-build`."""
    return "-".join(words[:2] if words[0] == "index" else words[:1])


@pytest.fixture(scope="session")
def schemas() -> dict[str, Any]:
    """Every schema by the name of its file."""
    return {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(SCHEMAS.glob("*.json"))}


@pytest.fixture(scope="session")
def faults(schemas: dict[str, Any]) -> Callable[[str, Any], list[str]]:
    """A function that says where an object differs from the schema of that name."""
    resources = [
        (f"{name}.json", Resource.from_contents(schema, default_specification=DRAFT202012))
        for name, schema in schemas.items()
    ]
    registry: Any = Registry().with_resources(resources)

    def found(name: str, value: Any) -> list[str]:
        validator = Draft202012Validator({"$ref": f"{name}.json"}, registry=registry)
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]

    return found


@pytest.fixture
def call(capsysbinary: Any, faults: Callable[[str, Any], list[str]]) -> Callable[..., Done]:
    """Run the program: its exit code, standard output and standard error."""

    def called(*given: object) -> Done:
        words = [str(word) for word in given]
        capsysbinary.readouterr()
        code = run(words)
        out, err = (data.decode("utf-8", "surrogateescape") for data in capsysbinary.readouterr())
        if "--json" in words and out:
            value = json.loads(out)
            assert not faults("envelope" if "error" in value else command_of(words), value)
        return Done(code, out, err)

    return called
