"""SIGTERM and SIGHUP do what Ctrl-C does, in real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from made import put, raw

import memvec

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

TINY = ["--nats-per-vector", "9", "--segment-tokens", "32", "--learning-rate", "1", "--dtype", "float32"]
SLOW = (
    "import sys, memvec.packing.exact, memvec.cli.output as output; from memvec.cli.main import main\n"
    "memvec.packing.exact.CERTIFY_AT_ONCE = 1; output.LINE_SECONDS = 0.0\n"
    "main()\n"
)
# Stops itself after the bytes of a document are written and before its file gets its name.
HALF = (
    "import os, signal; from memvec.cli.main import main\n"
    # The tests may run under nohup, which memvec obeys.
    "if signal.getsignal(signal.{1}) == signal.SIG_IGN: signal.signal(signal.{1}, signal.SIG_DFL)\n"
    "replace = os.replace\n"
    "def stopped(*names):\n"
    "    if '{0}' in str(names[1]): os.kill(os.getpid(), signal.{1})\n"
    "    replace(*names)\n"
    "os.replace = stopped\n"
    "main()\n"
)


class TestProcess:
    """Signals to a running command."""

    def test_pack(self, tmp_path: Path, tiny: str) -> None:
        """A pack keeps its finished records."""
        text = "\n".join(f"Letter {i}. She was not sorry to be recalled from so dull a walk." for i in range(40))
        (tmp_path / "long.txt").write_text(text)
        store = tmp_path / "s"
        command = [sys.executable, "-c", SLOW, "pack", tmp_path / "long.txt", "-o", store, "-m", tiny, "--json", *TINY]
        with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if b" exact" in line and b" 0 exact" not in line:
                    process.send_signal(signal.SIGTERM)
                    break
            out, err = process.communicate(timeout=120)
        assert process.returncode == 143 and b"Traceback" not in err
        assert b"interrupted by SIGTERM; " in err and b"finished record" in err
        report = json.loads(out)
        assert report["interrupted"] and report["records"] >= 1
        assert memvec.verify(store).ok

    @pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
    def test_unpack(self, tmp_path: Path, name: str, code: int) -> None:
        """No document is written by half."""
        store = put(tmp_path / "s", raw("one", b"\xff1"), raw("two", b"\xff2")).path
        command = [
            sys.executable,
            "-c",
            HALF.format("two", name),
            "unpack",
            str(store),
            "-o",
            str(tmp_path / "o"),
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, check=False, timeout=120)
        assert done.returncode == code and b"Traceback" not in done.stderr
        assert b"interrupted" in done.stderr and json.loads(done.stdout)["error"]["exit_code"] == code
        assert {file.name for file in (tmp_path / "o").iterdir()} <= {"one", "two"}


class TestHandler:
    """The handler of `signals.listen`."""

    def test_second(self) -> None:
        """The second signal ends the program at once."""
        program = (
            "import os, signal, time; from memvec.cli import signals; signals.listen()\n"
            "try: os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)\n"
            "except KeyboardInterrupt: os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)\n"
        )
        assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == -signal.SIGTERM

    def test_ignored(self) -> None:
        """As nohup has it."""
        program = (
            "import os, signal; from memvec.cli import signals; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
            "signals.listen(); os.kill(os.getpid(), signal.SIGHUP); print('goes on')"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
        assert done.stdout == b"goes on\n"
