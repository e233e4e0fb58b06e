"""The JSON Schemas say of every file of the corpus what the readers say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from schemas import problems

from memvec.formats import canonical, conditioning, container, documents, fields, raw
from memvec.formats.refusal import Refusal
from memvec.formats.shard import TENSORS

ROOT = Path(__file__).parents[2]
SCHEMAS = {file.stem: json.loads(file.read_text("utf-8")) for file in (ROOT / "formats" / "schemas").glob("*.json")}
CORPUS = ROOT / "tests" / "vectors" / "v1"


def values(store: Path) -> Iterator[tuple[str, Any]]:
    """(schema, value) of every piece of canonical JSON in an accepted store."""
    yield "manifest", json.loads((store / "manifest.json").read_bytes())
    for kind, name in (("shard", "memvec-shard"), ("keys", "memvec-keys")):
        for file in store.glob(f"{'shards' if kind == 'shard' else kind}/*"):
            data = file.read_bytes()
            entries, metadata = container.read_header(data, name)
            yield kind, metadata
            if kind == "shard":
                tensors = container.read_tensors(data, entries, TENSORS)
                for line in raw.decompress(tensors["documents"].tobytes()).splitlines():
                    yield "document", json.loads(line)
                ends = tensors["payload_offsets"].tolist()
                for row in (tensors["kind"] >= 2).nonzero()[0].tolist():
                    yield "report", json.loads(raw.decompress(tensors["payload"][ends[row] : ends[row + 1]].tobytes()))


def test_every_accepted_store_conforms() -> None:
    seen: dict[str, int] = dict.fromkeys(SCHEMAS, 0)
    for store in (CORPUS / "accepted").glob("*/store.memvec"):
        for kind, value in values(store):
            assert not list(problems(value, SCHEMAS[kind])), (store, kind)
            seen[kind] += 1
    assert set(seen) == {"document", "keys", "manifest", "report", "shard"} and min(seen.values()) >= 4


def test_every_manifest_refused_for_a_value_does_not_conform() -> None:
    said = 0
    codes = ("bad-field", "bad-digest", "out-of-range", "file-too-large", "wrong-format", "unsupported-version")
    codes += ("unknown-feature", "unknown-extension", "unsupported-numerics")
    for folder in (CORPUS / "refused").iterdir():
        code = json.loads((folder / "reason.json").read_text())["code"]
        files = list((folder / "store.memvec").rglob("*"))
        if code in codes and not any(file.suffix == ".safetensors" for file in files):
            value = canonical.loads((folder / "store.memvec" / "manifest.json").read_bytes()[:-1])
            assert list(problems(value, SCHEMAS["manifest"])), folder
            said += 1
    assert said > 25


DOCUMENT = {"bytes": 1, "name": "a", "sha256": "0" * 64, "tokens": 0, "zstd_bytes": 0}
REPORT = dict.fromkeys(conditioning.FIELDS, 0.5) | {"held_out": 1, "recipe": "", "seed": -1}


@pytest.mark.parametrize(
    "changes",
    [
        *({"name": name} for name in ("", "/a", "../a", "a/../b", "a/..", "a/", "a//b", ".", "a\0", "a\\b", "C:a")),
        {"bytes": -1},
        {"bytes": 1.5},
        {"bytes": True},
        {"sha256": "0" * 63},
        {"tokens": "1"},
    ],
)
def test_document_lines_are_refused_by_both(changes: dict[str, Any]) -> None:
    assert not list(problems(DOCUMENT, SCHEMAS["document"]))
    assert list(problems(DOCUMENT | changes, SCHEMAS["document"]))
    with pytest.raises(Refusal):
        documents.decode_documents(canonical.dumps(DOCUMENT | changes) + b"\n")


@pytest.mark.parametrize("name", ["a", "...", ".a", "a.", "a/.b/..c", "a\nb", "12:30", "ü:x", "..a/b.."])
def test_names_are_allowed_by_both(name: str) -> None:
    assert not list(problems(DOCUMENT | {"name": name}, SCHEMAS["document"]))
    assert documents.decode_documents(canonical.dumps(DOCUMENT | {"name": name}) + b"\n")


@pytest.mark.parametrize("changes", [{"gain": "1"}, {"seed": 1.5}, {"held_out": -1}, {"held_out": None}, {"recipe": 3}])
def test_reports_are_refused_by_both(changes: dict[str, Any]) -> None:
    assert not list(problems(REPORT, SCHEMAS["report"]))
    assert list(problems(REPORT | changes, SCHEMAS["report"]))
    with pytest.raises(Refusal):
        conditioning.decode(raw.compress(canonical.dumps(REPORT | changes)))


def test_a_schema_asks_for_what_the_reader_asks_for() -> None:
    required = SCHEMAS["manifest"]["properties"]["manifest"]["properties"]["fingerprint"]["required"]
    good = {"architecture": {}, "width": 1} | dict.fromkeys(("embedding", "probe", "vocabulary", "weights"), "")
    assert set(required) == set(good) and fields.fingerprint(good)
    for name in required:
        with pytest.raises(Refusal):
            fields.fingerprint({key: value for key, value in good.items() if key != name})
