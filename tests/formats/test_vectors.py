"""The conformance corpus: memvec and a second reader, written from the SPEC alone, agree on all of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import second_reader
from second_bytes import Refused
from vectors.make import ACCEPTED, PACKED, REFUSED, main
from vectors.reading import reading, refusals

from memvec.errors import FormatTooNewError, StoreDamagedError
from memvec.formats import limits, refusal
from memvec.formats.manifest import FEATURES
from memvec.store.store import Store
from memvec.types import Kind, RawReason

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "formats" / "SPEC.md").read_text(encoding="utf-8")
CORPUS = ROOT / "tests" / "vectors" / "v1"
accepted = sorted(folder.name for folder in (CORPUS / "accepted").iterdir())
refused = sorted(folder.name for folder in (CORPUS / "refused").iterdir())
# What no file of a corpus can be wrong in: links and large files are made by test_hostile.py, the rest by no store.
NOT_IN_FILES = {"symlink", "too-many-values", "malformed"}


@pytest.mark.parametrize("name", accepted)
def test_both_readers_find_the_same(name: str) -> None:
    folder = CORPUS / "accepted" / name
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    store = folder / "store.memvec"
    assert refusals(store) == set()
    assert json.loads(json.dumps(reading(store))) == expected
    second = second_reader.read(store)
    assert second == {part: expected[part] for part in ("documents", "versions", "records")}


@pytest.mark.parametrize("name", refused)
def test_both_readers_refuse_for_the_same_reason(name: str) -> None:
    folder = CORPUS / "refused" / name
    code = json.loads((folder / "reason.json").read_text(encoding="utf-8"))["code"]
    assert refusals(folder / "store.memvec") == {code}
    with pytest.raises(Refused) as caught:
        second_reader.read(folder / "store.memvec")
    assert str(caught.value) == code


@pytest.mark.parametrize("name", refused)
def test_what_is_refused_leaves_by_typed_errors_only(name: str) -> None:
    """Also without `verify`: opened, listed and read record by record."""
    store = CORPUS / "refused" / name / "store.memvec"
    try:
        opened = Store.open(store)
        for stored in opened.documents().values():
            for ref in stored.records + stored.memory:
                opened.record(ref)
        for keys in opened.manifest.keys:
            opened.keys(keys)
    except (FormatTooNewError, StoreDamagedError):
        pass


def test_the_corpus_is_not_empty_and_covers_the_format() -> None:
    assert len(accepted) >= 20 and len(refused) >= 150
    assert set(accepted) == {*ACCEPTED, PACKED} and set(refused) == set(REFUSED)
    found = [json.loads((CORPUS / "accepted" / name / "expected.json").read_text()) for name in accepted]
    records = [record for expected in found for record in expected["records"]]
    assert {record["kind"] for record in records} == {kind.name.lower() for kind in Kind}
    assert {record["reason"] for record in records} == {int(reason) for reason in RawReason}
    assert {0, 1, 2, 9, 16, 40} <= {record["vectors"][0] for record in records}
    assert {feature for expected in found for feature in expected["manifest"]["required"]} | {"removed"} == FEATURES
    assert {record["kv"]["bits"] for record in records if "kv" in record} == {4, 8, 16}
    assert sum(len(record["corrections"]) for record in records) > 3
    codes = Counter(json.loads(file.read_text())["code"] for file in (CORPUS / "refused").glob("*/reason.json"))
    assert set(codes) == set(refusal.CODES) - NOT_IN_FILES


def test_made_anew_it_is_the_same(tmp_path: Path) -> None:
    main(tmp_path, packed=False)
    made = {file.relative_to(tmp_path): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    there = {file.relative_to(CORPUS): file.read_bytes() for file in CORPUS.glob("*/*/**/*") if file.is_file()}
    assert made == {path: data for path, data in there.items() if path.parts[1] != PACKED}


def test_the_maker_changes_nothing_that_is_there(tmp_path: Path) -> None:
    kept = tmp_path / "accepted" / "empty" / "store.memvec" / "manifest.json"
    kept.parent.mkdir(parents=True)
    data = (CORPUS / "accepted" / "one-raw" / "store.memvec" / "manifest.json").read_bytes()
    kept.write_bytes(data)
    (kept.parents[1] / "expected.json").write_text("kept")
    main(tmp_path, packed=False)
    assert kept.read_bytes() == data and (kept.parents[1] / "expected.json").read_text() == "kept"
    assert (tmp_path / "accepted" / "names" / "expected.json").exists()


def test_the_corpus_names_no_machine() -> None:
    for file in CORPUS.rglob("*"):
        if file.is_file() and "etc/passwd" not in (data := file.read_bytes()).decode("latin-1"):
            assert not re.search(rb"/(home|tmp|root|work|Users)/", data), file


def test_the_spec_lists_every_code() -> None:
    table = SPEC.split("## 12. Codes")[1].split("\n## ")[0]
    assert dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \|$", table, re.MULTILINE)) == refusal.CODES
    text = SPEC.split("## 12. Codes")[0]
    assert set(re.findall(r"\*([a-z0-9]+(?:-[a-z0-9]+)+|symlink|surrogate)\*", text)) == set(refusal.CODES) - {
        "malformed"
    }


def test_the_spec_lists_every_limit() -> None:
    table = SPEC.split("## 11. Limits")[1].split("\n## ")[0]
    said = {int(number.replace(",", "")) for number in re.findall(r"\b\d[\d,]*\b", table.replace("2^63 − 1", ""))}
    coded = {value for name, value in vars(limits).items() if name.isupper() and not name.endswith("INTEGER")}
    assert said == coded - {limits.MOST_COUNT} and "2^63 − 1" in table


def test_the_spec_shows_what_the_files_hold() -> None:
    example = SPEC.split("## 15. Worked example")[1].split("\n## ")[0]
    store = CORPUS / "accepted" / "one-raw" / "store.memvec"
    lines = 0
    for name, block in re.findall(r"`(manifest\.json|shards/)[^`]*`[^`]*```\n(.*?)```", example, re.DOTALL):
        (file,) = [store / name] if name.endswith("json") else (store / name).iterdir()
        data = file.read_bytes()
        for place, shown in re.findall(r"^([0-9a-f]{4})  ((?:[0-9a-f]{2} ?)+)  ", block, re.MULTILINE):
            expected = bytes.fromhex(shown)
            assert data[int(place, 16) :][: len(expected)] == expected, (name, place)
            lines += 1
    assert lines > 20


def test_the_packed_store_decodes(tiny: str) -> None:
    import memvec

    store = CORPUS / "accepted" / PACKED / "store.memvec"
    report = memvec.verify(store, decode=True, model=tiny)
    assert report.ok and report.decoded > 1, report.problems
    assert memvec.cat(store, "prose.txt", model=tiny).startswith(b"It is a truth")
