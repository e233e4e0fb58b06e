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
# Stops itself where bytes of a document are on disk but not yet in place.
HALF = (
    "import os, signal; from memvec.cli.main import main\n"
    "replace = os.replace\n"
    "def stopped(*names):\n"
    "    if '{}' in str(names[1]): os.kill(os.getpid(), signal.{})\n"
    "    replace(*names)\n"
    "os.replace = stopped\n"
    "main()\n"
)


def test_a_pack_keeps_what_was_finished(tmp_path: Path, tiny: str) -> None:
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
    assert b"interrupted by SIGTERM; " in err and b"finished record(s) of this run are in the store" in err
    report = json.loads(out)
    assert report["interrupted"] and report["records"] >= 1
    assert memvec.verify(store).ok


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_verb_that_reads_leaves_nothing_half_written(tmp_path: Path, name: str, code: int) -> None:
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


def test_the_second_signal_ends_it_at_once() -> None:
    program = (
        "import os, signal, time; from memvec.cli import signals; signals.listen()\n"
        "try: os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)\n"
        "except KeyboardInterrupt: os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == -signal.SIGTERM


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As nohup has it."""
    program = (
        "import os, signal; from memvec.cli import signals; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "signals.listen(); os.kill(os.getpid(), signal.SIGHUP); print('goes on')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
    assert done.stdout == b"goes on\n"
