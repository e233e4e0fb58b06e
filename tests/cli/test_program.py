"""The program as a user calls it: output, JSON, exit codes, no traceback."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from memvec import errors
from memvec.store.lock import writing
from memvec.store.store import Store
from memvec.store.transaction import Transaction

FIELDS = [
    "documents", "records", "raw_records", "source_bytes", "source_tokens", "fitted_tokens", "vectors",
    "tokens_per_vector", "corrected_tokens", "vector_bytes", "store_bytes", "zstd_bytes", "token_steps", "seconds",
    "model", "fingerprint", "exact",
]  # fmt: skip
TINY = ["--nats-per-vector", "9", "--segment-tokens", "32", "--learning-rate", "1", "--dtype", "float32"]


def memvec(*args: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "memvec.cli", *map(str, args)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, env=os.environ)


class TestRoundTrip:
    """Pack, unpack and verify as a user would."""

    def test_folder(self, tree: Path, tmp_path: Path, tiny: str, documents: dict[str, bytes]) -> None:
        """A folder is packed, restored, compared with diff and verified."""
        store, out = tmp_path / "s.memvec", tmp_path / "out"
        packed = memvec("pack", tree, "-o", store, "-m", tiny, "--json", *TINY)
        assert packed.returncode == 0, packed.stderr
        report = json.loads(packed.stdout)
        assert report["schema"] == "memvec.cli/1"
        assert set(FIELDS) <= set(report)
        info = json.loads(memvec("info", store, "--json").stdout)
        assert {k: info[k] for k in FIELDS if k != "seconds"} == {k: report[k] for k in FIELDS if k != "seconds"}
        assert memvec("unpack", store, "-o", out).returncode == 0
        diff = subprocess.run(["diff", "-r", tree, out], capture_output=True, check=False)
        assert diff.returncode == 0, diff.stdout
        assert memvec("verify", store, "--decode").returncode == 0
        assert b"fitting" in packed.stderr  # a line now and then where stderr is no terminal

    def test_pipe(self, tmp_path: Path, tiny: str) -> None:
        """A document comes from a pipe and goes to one."""
        store, text = tmp_path / "s.memvec", b"read from a pipe, and written to one: \xc3\xa9\r\n"
        packed = memvec("pack", "-", "--name", "in/pipe.txt", "-o", store, "-m", tiny, *TINY, "-q", stdin=text)
        assert (packed.returncode, packed.stdout, packed.stderr) == (0, b"", b"")
        assert memvec("cat", store, "in/pipe.txt").stdout == text
        assert memvec("unpack", store, "--stdout", "--no-progress").stdout == text
        listed = json.loads(memvec("list", store, "--json").stdout)
        assert [row["name"] for row in listed["documents"]] == ["in/pipe.txt"]


class TestLooking:
    """Commands that read a store and load no model."""

    def test_store(self, packed: Path, call: Any, documents: dict[str, bytes]) -> None:
        code, out, _ = call("list", packed)
        assert code == 0 and all(name in out for name in documents)
        code, out, _ = call("list", packed, "--doc", "*.txt", "--limit", "2", "--json")
        assert [row["name"] for row in json.loads(out)["documents"]] == ["bom.txt", "cjk.txt"]
        code, out, _ = call("show", packed, "prose.txt", "--json")
        parts = json.loads(out)["parts"]
        assert parts[0]["vectors"] >= 1 and parts[0]["report"]["token_steps"] > 0
        code, out, _ = call("show", packed, parts[0]["id"][:8], "--json")
        assert json.loads(out)["id"] == parts[0]["id"]
        code, out, _ = call("show", packed, "image.png")
        assert "not valid UTF-8" in out
        code, out, _ = call("info", packed)
        assert "zstd" in out and "a vector is larger than the text it holds" in out
        code, out, _ = call("cat", packed, "image.png", "--json")
        assert base64.b64decode(json.loads(out)["base64"]) == documents["image.png"]

    def test_models(self, tiny: str, call: Any) -> None:
        code, out, _ = call("fingerprint", tiny, "--json")
        value = json.loads(out)
        assert code == 0 and len(value["id"]) == 16 and value["architecture"]["model_type"] == "llama"
        code, out, _ = call("models", "--json")
        assert json.loads(out)["models"][0]["name"] == "smollm2-135m"
        code, out, _ = call("models")
        assert "Apache-2.0" in out

    def test_version(self, call: Any) -> None:
        import memvec as library

        code, out, _ = call("--version")
        assert code == 0 and library.__version__ in out


class TestExitCodes:
    """Every kind of failure has its exit code and one message."""

    def test_codes(self, store: Path, tmp_path: Path, tiny: str, call: Any) -> None:
        (shard,) = (store / "shards").iterdir()
        good = shard.read_bytes()
        cases: list[tuple[int, list[object]]] = [
            (2, ["pack", "x"]),
            (2, ["no-such-command"]),
            (2, ["unpack", store]),
            (2, ["pack", "-", "-o", tmp_path / "s"]),
            (2, ["pack", "-", "-", "--name", "n", "-o", tmp_path / "s"]),
            (2, ["pack", tiny, "--name", "n", "-o", tmp_path / "s"]),
            (2, ["pack", tiny, "-o", tmp_path / "s", "-m", tiny, "--memory", "nan"]),
            (2, ["pack", tiny, "-o", tmp_path / "s", "-m", tiny, "--device", "nonsense"]),
            (2, ["pack", tiny, "-o", tmp_path / "s", "-m", tiny, "--include", "*.nothing"]),
            (2, ["pack", tiny, "-o", tmp_path / "s", "--vectors", "0", "-m", tiny]),
            (6, ["verify", tmp_path / "nothing"]),
            (6, ["info", tmp_path / "nothing"]),
            (6, ["cat", store, "no-such-document"]),
            (6, ["show", store, "no-such-document"]),
            (6, ["pack", tmp_path / "nothing", "-o", tmp_path / "s", "-m", tiny]),
            (6, ["unpack", store, "-o", tmp_path / "o", "-m", "no-such-model"]),
            (0, ["verify", store]),
        ]
        for code, args in cases:
            assert call(*args)[0] == code, args
        shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert call("list", store)[0] == 0  # it reads the header and the columns: these are what was written
        for args in (["verify", store], ["unpack", store, "-o", tmp_path / "o"], ["list", store]):
            if args[0] == "list":
                shard.write_bytes(good[:-1])
            code, out, err = call(*args)
            assert code == 3
            assert "Traceback" not in err and shard.name[:20] in out + err
        assert not (tmp_path / "o").exists()

    def test_message(self, tmp_path: Path, call: Any, monkeypatch: Any) -> None:
        """An error is one message on standard error, and with --json one object."""
        code, out, err = call("info", tmp_path / "nothing", "--json")
        assert json.loads(out)["error"] == {
            "type": "NotFoundError",
            "message": err.removeprefix("memvec: ").rstrip("\n"),
            "exit_code": 6,
        }
        assert "memvec pack" in err  # what to do next

        code, out, err = call("list", "--json")
        assert code == 2 and json.loads(out)["error"]["exit_code"] == 2

        def fail(*_: object) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr("memvec.cli.cmd_info.info", fail)
        code, _, err = call("info", tmp_path)
        assert code == 1 and "Traceback" not in err and "a bug" in err

    def test_skipped(self, tmp_path: Path, tiny: str, call: Any) -> None:
        """Inputs that cannot be read are skipped: exit 8."""
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "good").write_bytes(b"ok")
        os.mkfifo(tmp_path / "tree" / "pipe")
        code, out, err = call("pack", tmp_path / "tree", "-o", tmp_path / "s", "-m", tiny, "--json")
        assert code == 8 and "pipe" in err
        assert json.loads(out)["documents"] == 1 and list(json.loads(out)["skipped"]) == ["pipe"]

    def test_other_model(self, packed: Path, tiny: str, tmp_path: Path, call: Any) -> None:
        """Another model is refused with exit 4. The message names the fields that differ."""
        other = Path(shutil.copytree(tiny, tmp_path / "other"))
        config = json.loads((other / "config.json").read_text()) | {"rms_norm_eps": 0.1}
        (other / "config.json").write_text(json.dumps(config))
        for args in (
            ["verify", packed, "--decode"],
            ["cat", packed, "prose.txt"],
            ["unpack", packed, "-o", tmp_path / "o"],
        ):
            code, _, err = call(*args, "-m", other)
            assert code == 4
            assert "rms_norm_eps" in err and "0.1" in err
        code, _, err = call("pack", tiny, "-o", packed, "-m", other)
        assert code == 4 and "rms_norm_eps" in err

    def test_wrong_bytes(self, store: Path, tiny: str, call: Any, tmp_path: Path) -> None:
        """Wrong bytes give exit 5, a second writer exit 7."""
        opened = Store.open(store)
        stored = opened.documents()["prose.txt"]
        records = [opened.record(ref) for ref in stored.records]
        with writing(store):
            assert call("pack", tiny, "-o", store, "-m", tiny)[0] == 7
            Transaction(opened).commit([dataclasses.replace(r, vectors=r.vectors * 0) for r in records])
        assert call("verify", store)[0] == 0
        for args in (
            ["verify", store, "--decode"],
            ["cat", store, "prose.txt"],
            ["unpack", store, "-o", tmp_path / "o"],
        ):
            code, out, err = call(*args)
            assert code == 5
            assert "prose.txt" in out + err and "truth" not in out
        assert not (tmp_path / "o" / "prose.txt").exists()

    def test_one_table(self) -> None:
        """The numbers in the drawing and in the classes are the same."""
        classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.MemvecError)]
        doc = errors.__doc__ or ""
        for cls in classes:
            (line,) = [row for row in doc.splitlines() if f"{cls.__name__} " in row]
            assert f" {cls.exit_code} " in line, line
        assert {c.exit_code for c in classes} == {*range(1, 13), 130}


class TestEnds:
    """Runs that end early."""

    def test_closed_pipe(self, packed: Path) -> None:
        """A reader that ends early causes no message."""
        shell = f"{sys.executable} -m memvec.cli cat --no-progress {packed} image.png | true; echo ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        assert done.stdout.strip() in ("0", "141")  # whether `true` was gone before the write is a race

    def test_interrupt(self, tmp_path: Path, tiny: str) -> None:
        """Ctrl-C gives exit 130 and keeps finished records."""
        text = "\n".join(f"Letter {i}. She was not sorry to be recalled from so dull a walk." for i in range(200))
        (tmp_path / "long.txt").write_text(text)
        (tmp_path / "short.txt").write_text(text[:60])
        program = (
            "import sys, memvec.packing.exact, memvec.cli.output as output; from memvec.cli.main import run\n"
            "memvec.packing.exact.CERTIFY_AT_ONCE = 1; output.LINE_SECONDS = 0.0\n"
            "sys.exit(run(sys.argv[1:]))\n"
        )
        store = tmp_path / "s"
        files = [tmp_path / "long.txt", tmp_path / "short.txt"]
        command = [sys.executable, "-c", program, "pack", *files, "-o", store, "-m", tiny, "--json", *TINY]
        with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if b"exact" in line and b" 0 exact" not in line:
                    process.send_signal(signal.SIGINT)
                    break
            out, err = process.communicate(timeout=120)
        assert process.returncode == 130
        assert b"Traceback" not in err
        report = json.loads(out)
        assert report["interrupted"] and not report["exact"]
        checked = json.loads(memvec("verify", store, "--decode", "--json").stdout)
        assert checked["ok"] and checked["decoded"] == checked["records"] == report["records"] >= 1
        assert "long.txt" in checked["incomplete"]
