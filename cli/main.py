"""The `memvec` program: finds the command, and turns every error into one message and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from memvec import __version__
from memvec.cli.output import print_error, print_json_error
from memvec.errors import InterruptedPackError, MemvecError, PartialError

COMMANDS = {
    "add": "pack files and folders into a store that is there",
    "calibrate": "measure a model's curve, for pack --preset and --dry-run",
    "capacity": "measure how much vectors of a model can hold",
    "cat": "write one document to standard output",
    "compact": "write what counts in a store into few files, drop the rest",
    "diff": "say how far a model is from that of a store, and what that allows",
    "evaluate": "judge memories by questions, beside every control",
    "export": "write a store as one file, or memories for other programs: PEFT, vLLM, .npy",
    "fingerprint": "show what model and tokenizer vectors would belong to",
    "gc": "delete files that a store is not made of any more",
    "generate": "answer a prompt with documents in front, as vectors or as text",
    "import": "make a store of one file that export wrote",
    "index": "make keys and an index of a store, look at them, drop the index",
    "info": "totals of a store, with the honest ratios",
    "list": "the documents of a store",
    "merge": "put the documents of several stores into one",
    "models": "models known by name, and whether they are installed and cached",
    "pack": "pack files and folders into a store",
    "repair": "make a damaged store readable again, with all that is whole",
    "rm": "remove documents from a store",
    "search": "find the records that say what a query asks about",
    "show": "one document or record in detail",
    "unpack": "write documents back, byte for byte",
    "verify": "check a store, with --decode against the model",
}


class LazyGroup(click.Group):
    """Commands are imported when they are called, so that --help costs nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in order of name."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name, its module imported now."""
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"memvec.cli.cmd_{name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="memvec")
def program() -> None:
    """Memory vectors for frozen language models: pack text into [mem] vectors and get it back, byte for byte.

    Exit codes: 0 ok, 1 unexpected, 2 usage, 3 store damaged, 4 fingerprint refused, 5 reconstruction mismatch, 6 not
    found or format too new, 7 locked, 8 some inputs skipped, 9 missing extra, 10 could not write, 11 out of memory, 12
    could not read, 130 interrupted.
    """


def run(arguments: Sequence[str]) -> int:
    """Run the program with `arguments`; the exit code. Never a traceback, unless MEMVEC_TRACEBACK is set."""
    answered: list[bool] = []  # not empty once the one JSON object of this call is out

    def wanted() -> bool:
        return "--json" in arguments and not answered

    try:
        code = program.main(list(arguments), prog_name="memvec", standalone_mode=False, obj=answered)
    except click.ClickException as error:
        error.show()
        if wanted():
            print_json_error(error, error.format_message(), 2)
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("memvec: interrupted", err=True)
        if wanted():
            print_json_error(KeyboardInterrupt(), "interrupted", 130)
        return 130
    except (PartialError, InterruptedPackError) as error:  # their result was printed by the command
        if wanted():
            print_json_error(error, str(error), error.exit_code)
        click.echo(f"memvec: {error}", err=True)
        return error.exit_code
    except MemvecError as error:
        print_error(error, error.exit_code, wanted())
        return error.exit_code
    except Exception as error:
        if os.environ.get("MEMVEC_TRACEBACK"):
            raise
        print_error(error, 1, wanted())
        return 1
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:]))
