"""Strings of a command line: empty ones and other bytes than UTF-8 are refused before any work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from made import put, raw

from memvec.cli.main import COMMANDS, program, run
from memvec.cli.parameter_types import NAME, PATH, TEXT

BAD = "caf\udce9"  # what Python makes of a byte that is not UTF-8
FREE = {"prompt", "answer", "query"}  # texts; the command itself checks whether they are empty


def commands() -> Iterator[tuple[list[str], click.Command]]:
    for name in COMMANDS:
        command = program.get_command(click.Context(program), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from (([name, sub], command.commands[sub]) for sub in sorted(command.commands))
        else:
            yield [name], command


CASES = [
    pytest.param(words, command, param, id="-".join([*words, str(param.name)]))
    for words, command in commands()
    for param in command.params
    if not isinstance(param.type, click.Choice | click.types.IntParamType | click.types.FloatParamType)
    and not getattr(param, "is_flag", False)
]


def line(words: list[str], command: click.Command, chosen: click.Parameter, value: str) -> list[str]:
    """A command line with all required parameters, and `value` for `chosen`."""
    made = list(words)
    for param in command.params:
        if param is not chosen and not param.required:
            continue
        given = value if param is chosen else "x"
        made += [f"{param.opts[-1]}={given}"] if isinstance(param, click.Option) else [given]
    return made


@pytest.mark.parametrize("words, command, param", CASES)
class TestEveryParameter:
    def test_type(self, words: list[str], command: click.Command, param: click.Parameter) -> None:
        assert param.type in (NAME, PATH, TEXT), "a parameter that takes words needs one of these types"
        assert (param.type is TEXT) == (param.name in FREE)
        said = (param.make_metavar(click.Context(command)), *param.opts)
        where = any(word in text for text in said for word in ("STORE", "FILE", "FOLDER", "DIR", "PATH", "SRC"))
        assert where == (param.type is PATH), "a path may be any bytes, anything else is UTF-8"

    def test_empty(
        self, words: list[str], command: click.Command, param: click.Parameter, capsys: pytest.CaptureFixture[str],
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        if param.name in FREE:
            return
        monkeypatch.chdir(tmp_path)
        assert run(line(words, command, param, "")) == 2
        assert "it is empty" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_not_utf_8(
        self, words: list[str], command: click.Command, param: click.Parameter, capsys: pytest.CaptureFixture[str],
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        if param.type is PATH:
            return
        monkeypatch.chdir(tmp_path)
        assert run(line(words, command, param, BAD)) == 2
        assert "caf\\udce9' is not UTF-8" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="file systems of bytes")
class TestPathsThatAreNotUtf8:
    def test_a_store(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A path may be any bytes."""
        store = put(tmp_path / BAD, raw("a", b"\xff")).path
        for words in (["list"], ["cat"], ["verify"], ["rm"]):
            arguments = [words[0], str(store), *(["a"] if words[0] in ("cat", "rm") else [])]
            assert run([*arguments, "--json"]) == 0, words

    def test_a_model(self, tmp_path: Path) -> None:
        """The store would have to keep the model's path in JSON."""
        from memvec.checkpoints.resolve import lasting_name
        from memvec.errors import UsageError

        (tmp_path / BAD).mkdir()
        with pytest.raises(UsageError, match="not UTF-8"):
            lasting_name(str(tmp_path / BAD))
