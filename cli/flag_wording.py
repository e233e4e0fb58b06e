"""Translate error messages: the library names a Python argument (`overwrite=True`), the command line its flag (`--overwrite`)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click

# Arguments of functions that commands name otherwise: the command's own names, in order of preference.
NAMES = {
    "output": ("folder", "path", "store"),
    "path": ("path", "folder"),
    "folder": ("folder", "path"),
    "steps": ("distil_steps", "steps"),
    "k": ("k", "retrieve"),
}
# Functions whose command has another name.
COMMANDS = {"documents": "list", "build_index": "index build", "drop_index": "index drop", "index_info": "index info"}

# A Python literal; `name=value`; settings in a call; "name is value" at the start of a message; a call of a function.
VALUE = r"""(?:"[^"]*"|'[^']*'|\[[^\]]*\]|…|\.\.\.|[\w./%-]*[\w/%])"""
ARGUMENT = rf"(?<![\w.`\"'/-])([a-z_]+)=({VALUE})?"
SETTINGS = re.compile(
    rf"\b(?:settings=|context=|kv=)?(?:Pack|Context|KV|Capacity)Settings\(({ARGUMENT}(?:, {ARGUMENT})*)\)"
)
SUBJECT = re.compile(r"\A([a-z_]+)(?:\[\d+\])? is (?=['\"\[(\d-]|True\b|False\b|None\b|nan\b|inf\b|empty\b)")
CALL = re.compile(r"\bmemvec\.([a-z_]+)\(([^()`]*)\)")


def in_flags(message: str, command: click.Command | None, program: click.Group) -> str:
    """Rewrite `name=value` in `message` as flags of `command`, a command of `program`.

    An argument that has no option stays. So does text in backticks, except a call `memvec.verb(…)`, which becomes a command.
    """
    message = CALL.sub(lambda call: _command(call, program), message)
    if command is None:
        return message
    if (subject := SUBJECT.match(message)) and (param := next(_named(command, subject[1]), None)):
        message = f"{_name(param)} is {message[subject.end() :]}"
    parts = re.split(r"(`[^`]*`)", message)
    return "".join(part if part.startswith("`") else _rewritten(part, command) for part in parts)


def _rewritten(text: str, command: click.Command) -> str:
    """Rewrite the arguments in `text`, single ones and those in `PackSettings(…)`."""

    def flag(match: re.Match[str]) -> str:
        name, value = match[1], match[2] or ""
        for param in _named(command, name):
            if (said := _spelled(param, name, value)) is not None:
                return said
        return match[0]

    def settings(match: re.Match[str]) -> str:
        inner = re.sub(ARGUMENT, flag, match[1])
        return inner.replace(", ", " ") if inner.startswith("-") else match[0]

    return re.sub(ARGUMENT, flag, SETTINGS.sub(settings, text))


def _named(command: click.Command, name: str) -> Iterator[click.Parameter]:
    """The parameters of `command` that stand for the argument `name` of a function, best first."""
    for wanted in (*NAMES.get(name, (name,)), f"no_{name}"):
        yield from (param for param in command.params if param.name == wanted)


def _spelled(param: click.Parameter, name: str, value: str) -> str | None:
    """An option with its value as a user types it, or an argument by its name in the usage line. None if neither fits."""
    option = _name(param)
    if isinstance(param, click.Argument):
        return option
    if not isinstance(param, click.Option) or value == "None":
        return None
    if param.is_flag:
        if value == "False" and param.secondary_opts:
            return max(param.secondary_opts, key=len)
        wanted = "False" if param.name == f"no_{name}" else "True"
        return option if value in ("", wanted) else None
    if value.startswith("["):
        members = re.findall(r"\"[^\"]*\"|'[^']*'|…|\.\.\.", value) or ["…"]
        return " ".join(f"{option} {_word(member)}" for member in members)
    return f"{option} {_word(value)}" if value else option


def _name(param: click.Parameter) -> str:
    """The flag of an option, the short one if there is one. The name of an argument in the usage line."""
    if isinstance(param, click.Argument):
        return (param.metavar or param.human_readable_name).removesuffix("...")
    return next((o for o in param.opts if not o.startswith("--")), max(param.opts, key=len))


def _word(value: str) -> str:
    """A Python literal as a word of a shell."""
    bare = value[1:-1] if value[:1] in ("'", '"') else value
    return bare if bare in ("…", "...") else shlex.quote(bare)


def _command(match: re.Match[str], program: click.Group) -> str:
    """A call of a function, rewritten as its command with flags."""
    name = COMMANDS.get(match[1], match[1])
    command: click.Command | None = program
    for word in name.split():
        command = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
    if command is None:
        return match[0]
    flags = [_rewritten(found[0], command) for found in re.finditer(ARGUMENT, match[2])]
    return " ".join(["memvec", name, *(flag for flag in flags if flag.startswith("-"))])
