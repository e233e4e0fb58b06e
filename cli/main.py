"""The `memvec` program: find the command, and turn every error into one message and an exit code."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

import click

from memvec.cli import exit_codes, signals
from memvec.cli.allocator import keep_memory_for
from memvec.cli.flag_wording import in_flags
from memvec.cli.options import examples
from memvec.cli.output import Call, print_error
from memvec.cli.parameter_types import set_types
from memvec.cli.streams import CLOSED_PIPE, ReaderGoneError, emit, prepare
from memvec.cli.system_errors import as_memvec_error
from memvec.errors import InterruptedPackError, MemvecError
from memvec.version import __version__

# Every command with the first sentence of its help, in the groups that `memvec --help` shows.
GROUPS = {
    "Pack and unpack": {
        "pack": "Pack files, folders and corpora into a store",
        "add": "Pack files, folders and corpora into an existing store",
        "unpack": "Write documents back, byte for byte",
        "cat": "Write one document to standard output",
        "verify": "Check a store for damage",
    },
    "Look into a store": {
        "list": "List documents",
        "show": "Show a document with its records, or one record",
        "info": "Show totals and what vectors save",
    },
    "Use memories": {
        "generate": "Answer a prompt with documents in front of it",
        "evaluate": "Measure memories with questions",
    },
    "Search": {
        "search": "Find records that answer a query",
        "index": "Build, show or drop a search index",
    },
    "Keep a store": {
        "rm": "Remove documents",
        "merge": "Copy the documents of several stores into one",
        "compact": "Rewrite the live records into few files",
        "gc": "Delete files that the store no longer references",
        "repair": "Repair a damaged store",
        "export": "Write a store as one file, or memories for another program",
        "import": "Make a store from a file that export wrote",
    },
    "Measure and compare models": {
        "calibrate": "Measure what packing costs with a model",
        "capacity": "Measure how much text a model's vectors hold",
        "diff": "Compare a model with the one a store was packed with",
        "fingerprint": "Show the fingerprint of a model",
        "models": "List the models known by name",
    },
}
COMMANDS = {name: summary for group in GROUPS.values() for name, summary in group.items()}


class LazyGroup(click.Group):
    """Imports a command when it is called, so that --help is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in the order of the groups."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of that name. Its module is imported now."""
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"memvec.cli.cmd_{name}").command
        return set_types(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by group, then the exit codes. Import no command."""
        width = max(map(len, COMMANDS))  # one column for all groups
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), summary) for name, summary in commands.items()])
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code).ljust(width), meaning) for code, meaning in exit_codes.meanings()])


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "memvec pack notes/ -o notes.memvec",
        "memvec list notes.memvec",
        "memvec unpack notes.memvec -o restored/",
        "memvec COMMAND --help",
    ),
)
@click.version_option(__version__, prog_name="memvec")
def program() -> None:
    """Pack text into [mem] vectors for a frozen language model, and get it back byte for byte.

    A store is a folder NAME.memvec. Results go to standard output, messages and progress to standard error.
    """


def run(arguments: Sequence[str]) -> int:
    """Run the program and return its exit code. There is no traceback, unless MEMVEC_TRACEBACK is set."""
    call = Call(as_json="--json" in arguments)
    try:
        code = program.main(list(arguments), prog_name="memvec", standalone_mode=False, obj=call)
        return code if isinstance(code, int) else 0
    except ReaderGoneError:
        return CLOSED_PIPE
    except click.ClickException as error:
        error.show(shown := io.StringIO())
        emit(shown.getvalue(), err=True)
        return _failed(call, error, error.format_message(), 2, said=True)
    except (click.Abort, KeyboardInterrupt):
        return _failed(call, KeyboardInterrupt(), signals.interrupted(), signals.exit_code())
    except Exception as error:
        if os.environ.get("MEMVEC_TRACEBACK") and not isinstance(error, MemvecError):
            raise
        return _refused(call, as_memvec_error(error))


def main() -> None:
    """Run the console script."""
    keep_docstrings()
    keep_memory_for(sys.argv[1:])
    prepare()
    signals.listen()
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while an error was reported
        code = signals.exit_code()
    sys.exit(code)


def keep_docstrings() -> None:
    """Restart Python if it dropped docstrings (-OO): help is made of them, and transformers reads its own."""
    if sys.flags.optimize < 2 or os.name != "posix" or not sys.executable:
        return
    spec = sys.modules["__main__"].__spec__
    started = ["-m", "memvec.cli"] if spec else [sys.argv[0]]
    isolated = ["-I"] if sys.flags.isolated else []
    os.environ["PYTHONOPTIMIZE"] = "1"
    os.execv(sys.executable, [sys.executable, "-O", *isolated, *started, *sys.argv[1:]])


def _refused(call: Call, error: Exception) -> int:
    """Report the error of a verb and return the exit code."""
    if not isinstance(error, MemvecError):
        message = f"unexpected {type(error).__name__}: {error}. Set MEMVEC_TRACEBACK=1 to see where."
        return _failed(call, error, message, 1)
    message, code = in_flags(str(error), call.command, program), error.exit_code
    if isinstance(error, InterruptedPackError):
        message, code = message.replace("interrupted", signals.interrupted(), 1), signals.exit_code()
    return _failed(call, error, message, code)


def _failed(call: Call, error: BaseException, message: str, code: int, said: bool = False) -> int:
    print_error(type(error).__name__, message, code, call.as_json and not call.answered, said)
    return code
