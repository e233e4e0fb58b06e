"""Standard input, output and error: full, closed, short of space, slow, in another encoding."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from made import put, raw

from memvec.cli.output import print_json
from memvec.cli.streams import emit, read_input
from memvec.errors import ReadError, WriteError

BIG = random.Random(0).randbytes(1 << 20)
PROGRAM = f"{sys.executable} -m memvec.cli"
LEGACY = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # a locale of ASCII alone

pytestmark = pytest.mark.skipif(os.name != "posix", reason="shells and devices of POSIX")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of raw documents, which need no model."""
    return put(tmp_path_factory.mktemp("streams") / "s", raw("big", BIG), raw("né", b"\xffx")).path


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in which `memvec` is the program."""
    script = f'memvec() {{ {PROGRAM} "$@"; }}\n{line}'
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, cwd=folder, env=os.environ | environment, check=False, timeout=120
    )


def quiet(done: subprocess.CompletedProcess[bytes]) -> bool:
    return b"Traceback" not in done.stderr and b"unexpected" not in done.stderr and b"ignored" not in done.stderr


class TestShortWrites:
    """A write that a stream takes only in part is never called success."""

    @pytest.mark.parametrize("unbuffered", ["1", ""])
    @pytest.mark.parametrize("command", ["cat {} big", "cat {} big --json", "unpack {} --doc big --stdout"])
    def test_a_limit_on_the_size(self, store: Path, tmp_path: Path, command: str, unbuffered: str) -> None:
        line = f"ulimit -f 100; memvec {command.format(store)} > out"
        done = shell(line, tmp_path, PYTHONUNBUFFERED=unbuffered)
        assert done.returncode == 10 and b"standard output" in done.stderr and quiet(done)
        assert (tmp_path / "out").stat().st_size < len(BIG)

    @pytest.mark.parametrize("unbuffered", ["1", ""])
    def test_a_slow_pipe_that_does_not_block(self, store: Path, unbuffered: str) -> None:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        read: list[bytes] = []

        def drain() -> None:
            while block := os.read(reader, 5000):
                read.append(block)

        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        thread = threading.Thread(target=drain)
        with subprocess.Popen([*PROGRAM.split(), "cat", str(store), "big"], stdout=writer, env=environment) as process:
            os.close(writer)
            thread.start()
            assert process.wait(120) == 0
        thread.join()
        os.close(reader)
        assert b"".join(read) == BIG

    def test_a_pipe_of_input_that_does_not_block(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        feeding = threading.Timer(0.2, lambda: (os.write(writer, b"late"), os.close(writer)))
        with os.fdopen(reader) as stream:
            monkeypatch.setattr("sys.stdin", stream)
            os.write(writer, b"early, ")
            feeding.start()
            assert read_input() == b"early, late"
        feeding.join()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
class TestFull:
    """/dev/full refuses every write."""

    @pytest.mark.parametrize(
        "command", ["list {}", "list {} --json", "cat {} big", "--help", "list --help", "--version"]
    )
    def test_output(self, store: Path, tmp_path: Path, command: str) -> None:
        done = shell(f"memvec {command.format(store)} > /dev/full", tmp_path)
        assert done.returncode == 10 and done.stderr.count(b"\n") <= 2 and quiet(done)

    @pytest.mark.parametrize("command, code", [("list no", 6), ("list no --json", 6), ("no", 2), ("list {}", 0)])
    def test_errors(self, store: Path, tmp_path: Path, command: str, code: int) -> None:
        assert shell(f"memvec {command.format(store)} 2> /dev/full", tmp_path).returncode == code

    def test_an_error_keeps_its_code_when_its_object_cannot_be_written(self, tmp_path: Path) -> None:
        done = shell("memvec list no --json > /dev/full", tmp_path)
        assert done.returncode == 6 and done.stderr.startswith(b"memvec: no store") and quiet(done)
        done = shell("memvec list no --json | true; exit ${PIPESTATUS[0]}", tmp_path)
        assert done.returncode == 6 and quiet(done)

    def test_a_reader_that_is_gone(self, store: Path, tmp_path: Path) -> None:
        for command in (f"list {store}", f"cat {store} big", "--help"):
            done = shell(f"memvec {command} | true; exit ${{PIPESTATUS[0]}}", tmp_path)
            assert done.returncode in (0, 141) and quiet(done), command  # `true` may end before or after the write


class TestClosed:
    """Streams that the caller closed."""

    @pytest.mark.parametrize(
        "command, code",
        [
            ("cat {} big >&-", 10),
            ("list {} >&-", 10),
            ("--help >&-", 10),
            ("list {} 2>&-", 0),
            ("list no 2>&-", 6),
            ("list no 2>&- >&- <&-", 6),
            ("rm {} no --dry-run -q 2>&- >&-", 6),
        ],
    )
    def test_code(self, store: Path, tmp_path: Path, command: str, code: int) -> None:
        done = shell(f"memvec {command.format(store)}", tmp_path)
        assert done.returncode == code and quiet(done), done.stderr

    def test_input(self, tmp_path: Path) -> None:
        program = "from memvec.cli.streams import prepare, read_input; prepare(); read_input()"
        done = shell(f'{sys.executable} -c "{program}" <&-', tmp_path)
        assert b"ReadError: could not read 'standard input': it is closed" in done.stderr

    def test_files_of_a_store_never_get_the_number_of_a_stream(self, tmp_path: Path) -> None:
        program = (
            "import os; from memvec.cli.streams import prepare; prepare()\n"
            "opened = os.open(os.devnull, os.O_RDWR); open('number', 'w').write(str(opened))"
        )
        shell(f'{sys.executable} -c "{program}" <&- >&- 2>&-', tmp_path)
        assert int((tmp_path / "number").read_text()) > 2


class TestEncodings:
    """Names that the locale cannot print, and a locale that cannot read names."""

    def test_output_is_escaped(self, store: Path, tmp_path: Path) -> None:
        for environment in (LEGACY, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1:strict"}):
            done = shell(f"memvec list {store}", tmp_path, **environment)
            assert done.returncode == 0 and (b"n\\xe9" in done.stdout or b"n\xe9" in done.stdout), environment

    def test_names_are_utf_8_in_any_locale(self, store: Path, tmp_path: Path) -> None:
        for environment in (LEGACY, {"LC_ALL": "C"}):
            assert shell(f"memvec cat {store} né", tmp_path, **environment).stdout == b"\xffx"

    def test_progress_of_an_ascii_terminal(self, store: Path, tmp_path: Path) -> None:
        done = shell(f"memvec cat {store} big > out", tmp_path, PYTHONIOENCODING="ascii")
        assert done.returncode == 0 and b"\\x" not in done.stderr and b"documents" in done.stderr


class TestStrippedPython:
    def test_no_docstrings(self, store: Path, tmp_path: Path) -> None:
        """-OO drops docstrings, of which help is made, and which transformers reads to load a model."""
        done = shell("memvec list --help", tmp_path, PYTHONOPTIMIZE="2")
        assert done.returncode == 0 and b"List documents." in done.stdout
        done = shell(f"memvec cat {store} 'no such' --json", tmp_path, PYTHONOPTIMIZE="2")
        assert done.returncode == 6 and "no such" in json.loads(done.stdout)["error"]["message"]

    def test_a_console_script(self, store: Path, tmp_path: Path) -> None:
        (tmp_path / "script").write_text("from memvec.cli.main import main\nmain()\n")
        done = shell(f"{sys.executable} -OO script list {store} --doc né", tmp_path)
        assert done.returncode == 0 and "né".encode() in done.stdout


class TestInProcess:
    """A host's own streams."""

    def test_streams_that_are_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("stdin", "stdout", "stderr"):
            monkeypatch.setattr(f"sys.{name}", None)
        emit("nobody hears it", err=True)
        with pytest.raises(WriteError, match="standard output"):
            emit("data")
        with pytest.raises(ReadError, match="closed"):
            read_input()

    def test_json_is_valid(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_json({"gain": float("nan"), "harm": [float("inf"), 1.5], "name": "a\udcff", "\udcfe": {"x": (1, None)}})
        out = capsys.readouterr().out
        value = json.loads(out, parse_constant=lambda name: pytest.fail(name))
        assert value == {
            "schema": "memvec.cli/1", "gain": None, "harm": [None, 1.5], "name": "a\\udcff", "\\udcfe": {"x": [1, None]}
        }  # fmt: skip
