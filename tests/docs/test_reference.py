"""The reference pages have every name, setting, error and argument that there is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import ClassVar

import click
import pytest
import reference
from json_output import json_output

import memvec
from memvec import errors
from memvec.cli.main import program
from memvec.memory.options import table


def cells(table: str) -> list[list[str]]:
    """The rows of a Markdown table, without its head."""
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def test_api_has_every_exported_name_once() -> None:
    """A new export belongs to a group."""
    shown = [line.removeprefix("::: memvec.") for line in reference.api().splitlines() if line.startswith(":::")]
    assert sorted(shown) == sorted({*memvec.__all__, "open"} - {"__version__"})


def test_an_export_without_a_group_stops_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names it."""
    monkeypatch.setattr(memvec, "__all__", [*memvec.__all__, "brand_new"])
    with pytest.raises(ValueError, match="brand_new"):
        reference.api()


@pytest.mark.parametrize(
    "name", ["PackSettings", "ContextSettings", "KVSettings", "CorpusSettings", "CapacitySettings"]
)
def test_settings_have_type_default_range_and_meaning(name: str) -> None:
    """A row for each field. Only flags and names of fields have no range."""
    cls = getattr(memvec, name)
    rows = {row[0].strip("`"): row[1:] for row in cells(reference.settings(name))}
    assert list(rows) == [field.name for field in dataclasses.fields(cls)]
    for field in dataclasses.fields(cls):
        kinds, default, span = rows[field.name][:3]
        assert (kinds, default) == (
            " or ".join(f"`{kind}`" for kind in field.type.split(" | ")),
            f"`{field.default!r}`",
        )
        assert bool(span) == (field.type != "bool" and "str" not in field.type), field.name


def test_settings_say_what_the_source_says() -> None:
    """The comment behind a field, and the range that is checked."""
    rows = {row[0].strip("`"): row[1:] for row in cells(reference.settings("PackSettings"))}
    assert rows["segment_tokens"][2] == "8 to 4,096"
    assert rows["max_steps"][2] == "1 to 10<sup>6</sup>"
    assert rows["memory"][2] == "1 to 2<sup>63</sup>"
    assert "Steps" in rows["warmup"][3]
    assert reference.default_of("PackSettings", "margin") == "0.1"


def test_types_have_what_verbs_return_and_its_fields() -> None:
    """Also what is inside: a problem in the report of `verify`."""
    page = reference.types()
    shown = {line.rpartition(".")[2] for line in page.splitlines() if line.startswith(":::")}
    assert {"PackReport", "UnpackReport", "VerifyReport", "Hit", "Problem", "Generated", "Evaluation"} <= shown
    assert not shown & set(memvec.__all__)
    for cls in reference.returned_classes():
        assert f"::: {cls.__module__}.{cls.__name__}\n" in page
    assert "| `tokens_per_vector` | `float` |" in page


def test_errors_have_an_entry_each() -> None:
    """In the order of the source; nothing that errors.py imports."""
    shown = [line.rpartition(".")[2] for line in reference.error_classes().splitlines() if line.startswith(":::")]
    assert shown[:2] == ["MemvecError", "UsageError"] and "Copyable" not in shown and "ReadError" in shown


def test_exit_codes_have_every_error() -> None:
    """As `python -m memvec.cli.exit_codes` prints them."""
    table = reference.exit_codes()
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.MemvecError)]
    assert all(f"`{cls.__name__}`" in table for cls in classes if cls is not errors.MemvecError)


def test_generate_arguments_are_those_that_memvec_knows() -> None:
    """Honoured and refused ones."""
    rows = {row[0].strip("`"): row[1] for row in cells(reference.generate_arguments())}
    assert (rows["max_new_tokens"], rows["assistant_model"], rows["any other"]) == (
        "honoured",
        "**refused**",
        "**refused**",
    )
    assert reference.generate_arguments() == table() and len(rows) > 80


def test_included_files_have_no_second_title_and_no_dead_link() -> None:
    """Links to files of the repository lead nowhere in the pages."""
    text = reference.included("formats/SPEC.md")
    assert "## 1. Terms" in text and not text.lstrip().startswith("# ")
    assert not reference.re.search(r"\]\((?!https?:|#)", text)


class TestJsonOutput:
    """The page of JSON output is made of JSON Schemas."""

    SCHEMA: ClassVar = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "memvec info --json",
        "description": "What `info` prints.",
        "type": "object",
        "required": ["schema", "documents"],
        "properties": {
            "schema": {"$ref": "envelope.json#/$defs/schema"},
            "kind": {"enum": ["exact", "context"], "description": "One | the other."},
            "gain": {"type": ["number", "null"]},
            "documents": {"type": "array", "items": {"$ref": "#/$defs/document"}, "description": "By name."},
            "by_verb": {"type": "object", "additionalProperties": {"type": "object", "properties": {"n": {}}}},
            "found": {"anyOf": [{"$ref": "#/$defs/document"}, {"type": "null"}]},
        },
        "$defs": {
            "document": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string"},
                    "versions": {"type": "array", "items": {"$ref": "#/$defs/document"}},
                },
            }
        },
    }

    def test_fields_at_every_depth(self, tmp_path: Path) -> None:
        """Objects, lists of objects, values by key; a schema within itself once."""
        (tmp_path / "info.json").write_text(json.dumps(self.SCHEMA))
        shared = {"title": "An error", "$defs": {"schema": {"const": "memvec.cli/1", "description": "The version."}}}
        (tmp_path / "envelope.json").write_text(json.dumps(shared))
        first, _, rest = json_output(tmp_path).partition("## memvec info")
        page = "## memvec info" + rest
        assert first.startswith("## An error") and page.startswith("## memvec info\n\nWhat `info` prints.\n\n| field |")
        rows = {row[0].strip("`"): row[1:] for row in cells(page.split("\n\n")[2])}
        assert list(rows) == [
            *("schema", "kind", "gain", "documents", "documents[].name", "documents[].versions"),
            *("by_verb", "by_verb.*.n", "found", "found.name", "found.versions"),
        ]
        assert rows["schema"] == ['`"memvec.cli/1"`', "yes", "The version."]
        assert rows["kind"] == ['`"exact"` or `"context"`', "no", r"One \| the other."]
        assert rows["gain"][0] == "number or null"
        assert rows["documents"] == ["list of object", "yes", "By name."]
        assert rows["found"][0] == "object or null"
        assert '"$schema": "https://json-schema.org/draft/2020-12/schema"' in page

    def test_without_schemas_the_page_has_no_section(self, tmp_path: Path) -> None:
        """The folder need not be there."""
        assert json_output(tmp_path / "schemas") == ""

    def test_the_program_has_a_schema_for_each_file(self) -> None:
        """A file is named after its command."""
        commands = program.list_commands(click.Context(program))
        named = {file.stem.partition("-")[0] for file in reference.SCHEMAS.glob("*.json")}
        assert named == {*commands, "envelope"}
        page = json_output(reference.SCHEMAS)
        assert all(f"## memvec {command}" in page for command in commands)
