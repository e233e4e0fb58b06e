"""Help: groups of commands, one sentence each, examples that can be run, exit codes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from typing import Any

import click
import pytest

from memvec.cli import exit_codes
from memvec.cli.main import COMMANDS, GROUPS, program

VERBS = sorted({*COMMANDS} - {"index"} | {"index build", "index info", "index drop"})
# Options of one name that mean something else in each command.
DIFFERENT = {"decode", "embedder", "kind", "model", "questions", "sample", "seed", "store", "template", "vectors"}


def found(words: str) -> click.Command:
    """The command of these words."""
    command: Any = program
    for word in words.split():
        command = command.get_command(click.Context(command), word)
    return command  # type: ignore[no-any-return]


class TestProgram:
    """`memvec --help`."""

    def test_groups(self, call: Any) -> None:
        """Every command stands under its group with its sentence."""
        out = call("--help").out
        for title, commands in GROUPS.items():
            block = out.split(f"\n{title}:\n")[1].split("\n\n")[0]
            assert re.findall(r"^  (\S+)  +(.+)$", block, re.MULTILINE) == list(commands.items())

    def test_exit_codes(self, call: Any) -> None:
        """Every exit code stands on a line of its own, as the error classes say."""
        block = call("--help").out.split("\nExit codes:\n")[1].split("\n\n")[0]
        rows = [(int(code), text) for code, text in re.findall(r"^  (\d+)  +(.+)$", block, re.MULTILINE)]
        assert rows == exit_codes.meanings() and len(rows) == len(block.splitlines())

    def test_width(self, call: Any) -> None:
        assert max(map(len, call("--help").out.splitlines())) <= 80

    def test_every_module(self) -> None:
        """Every file cmd_NAME.py is a command, and the other way round."""
        from pathlib import Path

        files = (Path(__file__).parents[2] / "cli").glob("cmd_*.py")
        assert {file.stem.removeprefix("cmd_") for file in files} == set(COMMANDS)

    def test_light(self) -> None:
        """Help imports no library of models and no rich, nor does --json."""
        code = (
            "import sys; from memvec.cli.main import run\n"
            "for words in (['--help'], ['export', '--help'], ['generate', '--help'], ['list', '--help'], ['models', '--json']):\n"
            "    assert run(words) == 0\n"
            "print('LOADED', [m for m in ('torch', 'transformers', 'peft', 'rich') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("verb", VERBS)
class TestCommand:
    """`memvec COMMAND --help`."""

    def test_options(self, verb: str, call: Any) -> None:
        """Every command takes the common options."""
        done = call(*verb.split(), "--help")
        assert done.code == 0
        for option in ("--json", "-q, --quiet", "--no-progress", "-h, --help"):
            assert option in done.out

    def test_summary(self, verb: str) -> None:
        """The first sentence of a command's help is its line in `memvec --help`."""
        first = (found(verb).help or "").split("\n")[0]
        assert first.endswith(".") and first[0].isupper()
        if verb in COMMANDS:
            assert first == f"{COMMANDS[verb]}."

    def test_examples(self, verb: str) -> None:
        """Every example is a command line of this command that its options accept."""
        lines = re.findall(r"^  (.+)$", found(verb).epilog or "", re.MULTILINE)
        assert len(lines) <= 4 and (lines or verb == "models")
        for line in lines:
            words = shlex.split(line.replace("&&", "|").split("|")[-1 if "| memvec" in line else 0].split(">")[0])
            name = verb.split()
            assert words[: len(name) + 1] == ["memvec", *name], line
            found(verb).make_context(verb, words[len(name) + 1 :])

    def test_sentences(self, verb: str) -> None:
        """Every option has a help text, of sentences."""
        for param in found(verb).params:
            if isinstance(param, click.Option):
                text = re.sub(r" \[default: .*\]$", "", param.help or "")
                assert text.endswith("."), (param.name, text)


def test_one_text_an_option() -> None:
    """An option that several commands share has the same help text in all."""
    texts: dict[str, set[str]] = {}
    for verb in VERBS:
        for param in found(verb).params:
            if isinstance(param, click.Option) and param.name not in DIFFERENT:
                texts.setdefault(f"{param.name} {param.opts[-1]}", set()).add(param.help or "")
    assert {name: said for name, said in texts.items() if len(said) > 1} == {}
