"""Error messages: the library names arguments, the command line names flags."""

from __future__ import annotations

import importlib
from typing import Any

import click
import pytest

from memvec.cli.flag_wording import in_flags
from memvec.cli.main import program, run
from memvec.errors import UsageError


def command(name: str) -> click.Command:
    module, _, sub = name.partition(" ")
    found: Any = importlib.import_module(f"memvec.cli.cmd_{module}").command
    return found.commands[sub] if sub else found


class TestRewriting:
    """Arguments of the library become flags."""

    @pytest.mark.parametrize(
        "name, said, expected",
        [
            ("unpack", "Pass overwrite=True to replace it.", "Pass --overwrite to replace it."),
            ("unpack", 'Pass output="…" instead.', "Pass -o … instead."),
            ("unpack", 'Pass on_error="skip".', "Pass --on-error skip."),
            ("unpack", "Pass documents=['a b', \"c\"].", "Pass --doc 'a b' --doc c."),
            ("export", "Pass overwrite=True, or another path.", "Pass --overwrite, or another path."),
            ("export", "Pass path=….", "Pass -o …."),
            ("export", 'Pass documents=["a"].', "Pass --id a."),
            ("pack", 'Pass kind="context".', "Pass --kind context."),
            ("pack", "model='…' names it.", "-m … names it."),
            ("pack", "Pass model= with it.", "Pass -m with it."),
            ("pack", "Raise lock_wait=60, or wait.", "Raise --lock-wait 60, or wait."),
            ("rm", "try again, or pass lock_wait=SECONDS.", "try again, or pass --lock-wait SECONDS."),
            ("pack", "ratio is 20; pass gist=True.", "--ratio is 20; pass --gist."),
            ("generate", "Pass using='vectors' or using='text'.", "Pass --as vectors or --as text."),
            ("cat", "pass model='owner/name' to ask it", "pass -m owner/name to ask it"),
            ("pack", "Pass settings=PackSettings(max_steps=9, vectors=2).", "Pass --max-steps 9 --vectors 2."),
            ("pack", "ContextSettings(steps=400) is enough.", "--distil-steps 400 is enough."),
            ("generate", "Pass sample=True, or leave temperature=0.5 out.", "Pass --sample, or leave --temperature 0.5 out."),
            ("generate", 'Pass using="text".', "Pass --as text."),
            ("search", "Pass k=3 and decode=True.", "Pass -k 3 and --decode."),
            ("search", "k is 0, expected 1 to 10000.", "-k is 0, expected 1 to 10000."),
            ("search", "query is '', expected words.", "QUERY is '', expected words."),
            ("merge", "Pass output=….", "Pass -o …."),
            ("index build", 'Pass embedder="lm".', "Pass --embedder lm."),
            ("diff", "Pass probe=False.", "Pass --no-probe."),
            ("capacity", "Pass anchor=False.", "Pass --no-anchor."),
            ("rm", "Pass documents=['a'].", "Pass NAME_OR_PATTERN."),
            # What stays.
            ("list", "Pass overwrite=True.", "Pass overwrite=True."),
            ("unpack", "Pass overwrite=False.", "Pass overwrite=False."),
            ("unpack", "Run `memvec.thing(overwrite=True)`.", "Run `memvec.thing(overwrite=True)`."),
            ("unpack", "Run `memvec list`.", "Run `memvec list`."),
            ("unpack", "'overwrite=True' is a name", "'overwrite=True' is a name"),
            ("cat", "the model is not the one", "the model is not the one"),
            # Functions are commands.
            ("search", "`memvec.build_index(store)` makes them.", "`memvec index build` makes them."),
            ("unpack", "`memvec.documents(…)` lists the names.", "`memvec list` lists the names."),
            ("search", "memvec.verify(store, decode=True) checks it.", "memvec verify --decode checks it."),
        ],
    )  # fmt: skip
    def test_message(self, name: str, said: str, expected: str) -> None:
        assert in_flags(said, command(name), program) == expected

    def test_no_command(self) -> None:
        assert in_flags("Pass overwrite=True.", None, program) == "Pass overwrite=True."

    @pytest.mark.parametrize("as_json", [True, False])
    def test_program(self, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """The program prints flags, in JSON too."""

        def refuse(*_: object, **__: object) -> None:
            raise UsageError("it is there. Pass overwrite=True to replace it.")

        monkeypatch.setattr("memvec.maintenance.archive.export_store", refuse)
        assert run(["export", "s", "-o", "f", *["--json"] * as_json]) == 2
        out, err = capsys.readouterr()
        assert "--overwrite to replace" in err and "overwrite=True" not in err + out
        assert not as_json or "--overwrite to replace" in out
