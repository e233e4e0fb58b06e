"""The `memvec` program: finds the command, and turns every error into one message and an exit code."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

import click

from memvec.cli import signals
from memvec.cli.failures import typed
from memvec.cli.output import Call, print_error
from memvec.cli.streams import CLOSED_PIPE, ReaderGoneError, emit, prepare
from memvec.cli.wording import in_flags
from memvec.cli.words import checked
from memvec.errors import InterruptedPackError, MemvecError
from memvec.version import __version__

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
        return checked(command)

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
    could not read, 129 stopped by SIGHUP, 130 interrupted, 141 reader of the output gone, 143 stopped by SIGTERM.
    """


def run(arguments: Sequence[str]) -> int:
    """Run the program with `arguments`; the exit code. Never a traceback, unless MEMVEC_TRACEBACK is set."""
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
        return _refused(call, typed(error))


def main() -> None:
    """Entry point of the console script."""
    keep_docstrings()
    prepare()
    signals.listen()
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while an error was reported
        code = signals.exit_code()
    sys.exit(code)


def keep_docstrings() -> None:
    """Start Python anew where it dropped docstrings (-OO): help is made of them, and transformers reads its own."""
    if sys.flags.optimize < 2 or os.name != "posix" or not sys.executable:
        return
    spec = sys.modules["__main__"].__spec__
    started = ["-m", "memvec.cli"] if spec else [sys.argv[0]]
    isolated = ["-I"] if sys.flags.isolated else []
    os.environ["PYTHONOPTIMIZE"] = "1"
    os.execv(sys.executable, [sys.executable, "-O", *isolated, *started, *sys.argv[1:]])


def _refused(call: Call, error: Exception) -> int:
    """Report what a verb raised."""
    if not isinstance(error, MemvecError):
        message = f"unexpected {type(error).__name__}: {error}. MEMVEC_TRACEBACK=1 shows where."
        return _failed(call, error, message, 1)
    message, code = in_flags(str(error), call.command), error.exit_code
    if isinstance(error, InterruptedPackError):
        message, code = message.replace("interrupted", signals.interrupted(), 1), signals.exit_code()
    return _failed(call, error, message, code)


def _failed(call: Call, error: BaseException, message: str, code: int, said: bool = False) -> int:
    print_error(type(error).__name__, message, code, call.as_json and not call.answered, said)
    return code
