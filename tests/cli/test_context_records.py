"""Context records: in lists, totals and reports, and as documents that do not unpack."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memvec.formats.manifest import Manifest
from memvec.packing.records import context_record, raw_records
from memvec.store.transaction import Transaction
from memvec.types import Conditioning, Document, Fingerprint, RawReason, Record

WIDTH = 4
DATA = b"a" * 60 + b"b" * 40
REPORT = Conditioning(0.9, 0.1, None, 0.02, 3.0, 2.0, 2.1, 8, "questions", 3)


def document(name: str) -> Document:
    return Document(name, len(DATA), hashlib.sha256(DATA).hexdigest(), 50, 40)


def content(name: str, end: int | None = None) -> list[Record]:
    return raw_records(document(name), 0, DATA[:end], 0, RawReason.NOT_TEXT, WIDTH)


def memory(name: str, start: int, end: int, tokens: int, count: int, **changes: Any) -> Record:
    vectors, report = np.ones((count, WIDTH), np.float16), dataclasses.replace(REPORT, **changes)
    return context_record(document(name), start, DATA[start:end], tokens, vectors, report)


@pytest.fixture
def empty(tmp_path: Path) -> Transaction:
    """A transaction of a store without records."""
    fingerprint = Fingerprint("w", "e", {"hidden_size": WIDTH}, "v", "p", WIDTH, "somewhere")
    return Transaction.create(tmp_path / "s.memvec", Manifest(fingerprint, 500))


@pytest.fixture
def mixed(empty: Transaction) -> Path:
    """One document with content and a memory of two records, one with content, one with a memory, two unfinished."""
    parts = [memory("both", 0, 60, 30, 3), memory("both", 60, 100, 10, 2, gain=0.1, harm=None)]
    empty.commit([*content("both"), *parts, *content("content"), memory("memory", 0, 100, 40, 2, gain=0.5, harm=0.1)])
    empty.commit([*content("torn", 60), memory("torn", 0, 100, 40, 1), memory("half", 0, 60, 30, 1)])
    return empty.path


class TestList:
    """Memories in `list`."""

    def test_columns(self, mixed: Path, call: Any) -> None:
        """A document has its memory and gain in two columns."""
        _, out, _ = call("list", mixed)
        head, *lines = out.splitlines()
        assert head.split()[-3:] == ["corrected", "memory", "gain"]
        cells = {line.split()[0]: line.split() for line in lines if not line.startswith("incomplete")}
        assert cells["both"] == ["both", "100", "40", "1", "1", "0", "0", "5", "0.70"]  # (30 · 0.9 + 10 · 0.1) / 40
        assert cells["content"][-2:] == ["0", "-"]
        assert cells["memory"] == ["memory", "100", "40", "0", "0", "0", "0", "2", "0.50"]
        assert [line for line in lines if line.startswith("incomplete")] == [
            "incomplete, run the same pack again: half",
            "incomplete, run the same pack again: torn",
        ]
        _, out, _ = call("list", mixed, "--json")
        rows = {row["name"]: (row["memory"], row["gain"], row["vectors"]) for row in json.loads(out)["documents"]}
        assert rows == {"both": (5, 0.7, 0), "content": (0, None, 0), "memory": (2, 0.5, 0), "torn": (1, 0.9, 0)}
        assert json.loads(out)["incomplete"] == ["half", "torn"]


class TestInfo:
    """Memories in `info`."""

    def test_counts(self, mixed: Path, call: Any) -> None:
        """Memories are counted beside the content."""
        _, out, _ = call("info", mixed, "--json")
        value = json.loads(out)
        assert (value["documents"], value["incomplete"], value["exact"]) == (4, 2, False)
        assert (value["records"], value["raw_records"], value["vectors"], value["tokens_per_vector"]) == (3, 3, 0, 0.0)
        assert (value["context_records"], value["context_vectors"], value["context_tokens"]) == (4, 8, 120)
        assert value["gain"] == pytest.approx((30 * 0.9 + 10 * 0.1 + 40 * 0.5 + 40 * 0.9) / 120)
        assert value["harm"] == pytest.approx((30 * 0.02 + 40 * 0.1 + 40 * 0.02) / 110, abs=1e-4)
        assert value["vector_bytes"] == 8 * WIDTH * 2
        _, out, _ = call("info", mixed)
        (row,) = [line for line in out.splitlines() if line.split()[:1] == ["memory"]]
        assert "120 tokens in 8 context vectors (15.00 tokens each)" in row
        assert "gain 0.70 of the text's, harm 0.049 nats/token" in row
        assert "no: some documents are incomplete" in out

    def test_none(self, empty: Transaction, call: Any) -> None:
        """A store without memories has no such row."""
        empty.commit(content("content"))
        _, out, _ = call("info", empty.path)
        assert "memory" not in out and "every record certified" in out
        _, out, _ = call("info", empty.path, "--json")
        assert (json.loads(out)["context_records"], json.loads(out)["gain"], json.loads(out)["harm"]) == (0, None, None)

    def test_alone(self, empty: Transaction, call: Any) -> None:
        """A store of memories alone is not called exact."""
        empty.commit([memory("memory", 0, 100, 40, 2, harm=None)])
        _, out, _ = call("info", empty.path)
        assert "no: some documents are there as a memory only" in out
        assert "harm not measured" in out
        assert "zstd -19" in out and "a vector is larger than the text it holds" in out  # 16 bytes of vectors beside 50


class TestShow:
    """Memories in `show`."""

    def test_parts(self, mixed: Path, call: Any) -> None:
        """The records of a memory come after the content."""
        _, out, _ = call("show", mixed, "both", "--json")
        parts = json.loads(out)["parts"]
        assert [(p["kind"], p["start"]) for p in parts] == [("raw", 0), ("context", 0), ("context", 60)]
        assert parts[0]["conditioning"] is None
        assert parts[1]["conditioning"] == dataclasses.asdict(REPORT)
        _, out, _ = call("show", mixed, "both")
        assert re.search("raw +not valid UTF-8 text, or control characters$", out.splitlines()[-3])
        assert re.search("context +gain 0.10$", out.splitlines()[-1])

    def test_record(self, mixed: Path, call: Any) -> None:
        """A context record shows its measurement."""
        _, out, _ = call("show", mixed, "both", "--json")
        parts = json.loads(out)["parts"]
        _, out, _ = call("show", mixed, parts[1]["id"][:8])
        values = dict(line.split(maxsplit=1) for line in out.splitlines() if len(line.split()) > 1)
        assert (values["kind"], values["gain"], values["held_out"], values["recipe"]) == (
            "context",
            "0.9",
            "8",
            "questions",
        )
        assert values["text"] == "not measured"
        _, out, _ = call("show", mixed, parts[0]["id"][:8])
        assert "conditioning" not in out and "nll_memory" not in out


class TestDecoding:
    """Context records do not decode."""

    def test_unpack(self, mixed: Path, tmp_path: Path, call: Any) -> None:
        """Memories are skipped with exit 8."""
        code, out, err = call("unpack", mixed, "-o", tmp_path / "out", "--json")
        value = json.loads(out)
        assert code == 8 and value["documents"] == 2 and value["files"] == ["both", "content"]
        assert list(value["skipped"]) == ["torn", "memory"]
        assert "interrupted" in value["skipped"]["torn"] and "only a memory" in value["skipped"]["memory"]
        assert "skipped 2 inputs. Everything else was unpacked." in err and re.search("kind[ =]'?exact", err)
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"both", "content"}
        code, out, _ = call("unpack", mixed, "-o", tmp_path / "two")
        assert code == 8 and out.startswith("unpacked 2 documents")
        code, out, err = call("unpack", mixed, "--stdout")
        assert code == 8 and out.encode() == DATA * 2 and "Everything else was read." in err

    def test_cat(self, mixed: Path, tmp_path: Path, call: Any) -> None:
        """Asking for the bytes of a memory is a usage error."""
        for args in (["cat", mixed, "memory"], ["unpack", mixed, "-o", tmp_path / "out", "--doc", "mem*"]):
            code, out, err = call(*args, "--json")
            assert code == 2 and json.loads(out)["error"]["type"] == "NoContentError"
            assert "no content of 'memory'" in err and re.search("kind[ =]'?both", err)
        assert not (tmp_path / "out").exists()
        assert call("cat", mixed, "torn")[0] == 6

    def test_verify(self, mixed: Path, call: Any) -> None:
        """The count of decoded records names the memories."""
        code, out, _ = call("verify", mixed, "--decode")
        assert code == 0
        assert "3 of 8 records decoded, 5 are context records, which do not decode" in out
        assert (
            "incomplete, from an interrupted pack: half" in out and "incomplete, from an interrupted pack: torn" in out
        )
        code, out, _ = call("verify", mixed)
        assert code == 0 and "which do not decode" not in out


class TestImports:
    @pytest.mark.parametrize("arguments", [["list"], ["info"], ["show", "both"], ["verify"]])
    def test_light(self, mixed: Path, arguments: list[str]) -> None:
        """Looking at context records loads no model library."""
        program = "import sys; from memvec.cli.main import run; run(sys.argv[1:]); assert 'torch' not in sys.modules"
        command = [sys.executable, "-c", program, arguments[0], str(mixed), *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
