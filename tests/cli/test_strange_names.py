"""Names in a stranger's store do not steer the terminal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from made import TEXT, exact, memory, put, raw

from memvec.cli.main import run
from memvec.formats import manifest
from memvec.store.store import Store

STEERING = "\x1b]0;title\x07\u202e\x9b2J"


@pytest.fixture(params=[False, True])
def strange(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store of which every text that may be any holds what steers a terminal."""
    name = f"a{STEERING}"
    put(tmp_path / "s", memory(f"memory{STEERING}", TEXT))
    opened = put(
        tmp_path / "s",
        exact(name, TEXT)[:2],
        raw(f"b{STEERING}", TEXT),
        meta={f"b{STEERING}": {f"k{STEERING}": STEERING}},
    )
    owner = dataclasses.replace(opened.manifest.fingerprint, source=f"owner{STEERING}/name")
    if request.param:  # then shards do not belong to it
        owner = dataclasses.replace(owner, architecture={f"x{STEERING}": STEERING, "hidden_size": 8})
    keys = (
        ()
        if not request.param
        else tuple(
            dataclasses.replace(entry, embedder=f"sentence-transformers:{STEERING}") for entry in opened.manifest.keys
        )
    )
    state = dataclasses.replace(opened.manifest, tool=STEERING, fingerprint=owner, keys=keys)
    (tmp_path / "s" / manifest.FILE_NAME).write_bytes(manifest.encode(state))
    return tmp_path / "s"


@pytest.mark.parametrize(
    "words",
    [["list"], ["info"], ["show"], ["show", f"b{STEERING}"], ["unpack", "-o", "{out}"], ["cat", f"a{STEERING}"], ["search", "x"],
     ["verify"], ["index", "info"], ["rm", "a*", "--dry-run"], ["diff", "{tiny}"], ["repair"]],
)  # fmt: skip
def test_nothing_steers(
    words: list[str], strange: Path, tmp_path: Path, tiny: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Store.open(strange)
    command = [words[0], *([words[1]] if words[0] == "index" else []), str(strange)]
    rest = words[2:] if words[0] == "index" else words[1:]
    code = run([*command, *(word.format(out=tmp_path / "out", tiny=tiny) for word in rest)])
    out, err = capsys.readouterr()
    assert code != 1 and out + err
    assert not set(out + err) & set("\x1b\x07\u202e\x9b"), (out, err)
