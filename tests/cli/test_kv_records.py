"""Kv records: in lists, totals and reports."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from made import TEXT, WIDTH, document, exact, kv, put

from memvec.packing.records import kv_record
from memvec.types import Conditioning, Record

MEASURED = Conditioning(0.9, 0.1, None, 0.02, 3.0, 2.0, 2.1, 8, "kv", 3)
UNMEASURED = Conditioning(None, None, None, None, None, None, None, 0, "kv", 3)


def part(name: str, begin: int, end: int, tokens: int, told: Conditioning) -> Record:
    (made,) = kv(name, TEXT, begin, end)
    assert made.kv is not None
    return kv_record(document(name, TEXT), begin, TEXT[begin:end], tokens, made.kv, told, width=WIDTH)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A document with content and a kv memory of three records, one with content, one with an unfinished kv memory."""
    told = [MEASURED, dataclasses.replace(MEASURED, gain=0.5), UNMEASURED]
    parts = [part("both", 20 * n, 20 * n + 20, 10 * (n + 1), one) for n, one in enumerate(told)]
    put(tmp_path / "s", [*exact("both", TEXT), *parts, *exact("content", TEXT)], [part("half", 0, 20, 7, MEASURED)])
    return tmp_path / "s"


def size(*records: Record) -> int:
    return sum(record.kv.nbytes for record in records if record.kv)


BYTES = size(*(part("both", 20 * n, 20 * n + 20, 1, UNMEASURED) for n in range(3)))
GAIN = round((10 * 0.9 + 20 * 0.5) / 30, 4)


class TestList:
    """Kv memories in `list`."""

    def test_columns(self, mixed: Path, call: Any) -> None:
        """A store with a kv memory has three more columns."""
        _, out, _ = call("list", mixed)
        head, *lines = out.splitlines()
        assert head.split()[-5:] == ["kv", "kv", "bytes", "kv", "gain"]
        cells = {line.split()[0]: line.split() for line in lines}
        assert cells["both"][-5:] == ["0", "-", "18", f"{BYTES:,}", "0.63"]
        assert cells["content"][-5:] == ["0", "-", "0", "0", "-"]
        _, out, _ = call("list", mixed, "--json")
        rows = {row["name"]: (row["kv"], row["kv_bytes"], row["kv_gain"]) for row in json.loads(out)["documents"]}
        assert rows == {"both": (18, BYTES, GAIN), "content": (0, 0, None)}
        assert json.loads(out)["incomplete"] == ["half"]

    def test_none(self, tmp_path: Path, call: Any) -> None:
        """Without one there are no such columns."""
        put(tmp_path / "s", exact("a", TEXT))
        _, out, _ = call("list", tmp_path / "s")
        assert "kv" not in out


class TestInfo:
    """Kv memories in `info`."""

    def test_counts(self, mixed: Path, call: Any) -> None:
        """Their size stands beside that of their text."""
        _, out, _ = call("info", mixed, "--json")
        value = json.loads(out)
        assert (value["kv_records"], value["kv_positions"], value["kv_tokens"]) == (3, 18, 60)
        assert (value["kv_text_bytes"], value["kv_bytes"], value["kv_measured"]) == (56, BYTES, 2)
        assert (value["kv_gain"], value["gain"], value["context_records"]) == (GAIN, None, 0)
        assert (value["documents"], value["incomplete"], value["records"]) == (2, 1, 12)
        _, out, _ = call("info", mixed)
        (row,) = [line for line in out.splitlines() if line.split()[:2] == ["kv", "memory"]]
        assert "3 records of 60 tokens in 18 positions (3.3 tokens each)" in row
        assert f"{BYTES / 60:.0f} bytes a token as stored (the text 0.9), 0.0 s for 1,000 tokens" in row
        assert row.endswith("2 measured, gain on blanks 0.63 of the text's")

    def test_unmeasured(self, tmp_path: Path, call: Any) -> None:
        """A store whose memories nobody measured says no gain, and that it decodes to nothing."""
        put(tmp_path / "s", [part("a", 0, 56, 14, UNMEASURED)])
        _, out, _ = call("info", tmp_path / "s")
        (row,) = [line for line in out.splitlines() if line.split()[:2] == ["kv", "memory"]]
        assert row.endswith("(the text 4.0), 0.0 s for 1,000 tokens, 0 measured") and "as a memory only" in out
        assert any(line.split()[:3] == ["keys", "and", "values"] for line in out.splitlines())
        _, out, _ = call("info", tmp_path / "s", "--json")
        assert json.loads(out)["kv_gain"] is None

    def test_none(self, tmp_path: Path, call: Any) -> None:
        """A store without kv memories has no such row."""
        put(tmp_path / "s", exact("a", TEXT))
        _, out, _ = call("info", tmp_path / "s")
        assert "kv" not in out and "keys and values" not in out


class TestShow:
    """Kv memories in `show`."""

    def test_parts(self, mixed: Path, call: Any) -> None:
        """The records of a kv memory come last."""
        _, out, _ = call("show", mixed, "both", "--json")
        parts = json.loads(out)["parts"]
        assert [(p["kind"], p["start"]) for p in parts[-4:]] == [("exact", 50), ("kv", 0), ("kv", 20), ("kv", 40)]
        made = part("both", 20, 40, 1, MEASURED).kv
        assert made is not None and parts[0]["kv"] is None
        expected = {"positions": 6, "bits": 8, "rows": made.rows, "layers": 2, "heads": 2, "width": 4}
        assert parts[-2]["kv"] == {**expected, "bytes": made.nbytes}
        _, out, _ = call("show", mixed, "both")
        assert out.splitlines()[-2].endswith(f"kv     gain 0.50, 6 positions, {made.rows} rows of 8 bits")
        _, out, _ = call("show", mixed, parts[-2]["id"][:12])
        values = dict(line.rsplit(maxsplit=1) for line in out.splitlines() if len(line.split()) > 1)
        found = {name.strip(): value for name, value in values.items()}
        assert (found["kind"], found["positions"], found["bits"], found["rows"]) == ("kv", "6", "8", str(made.rows))
        assert (found["key width"], found["width"], found["gain"]) == ("4", str(WIDTH), "0.5")


def test_verify(mixed: Path, call: Any) -> None:
    """The count of decoded records names the kv records."""
    code, out, _ = call("verify", mixed, "--json")
    assert code == 0 and (json.loads(out)["kv_records"], json.loads(out)["context_records"]) == (4, 0)
