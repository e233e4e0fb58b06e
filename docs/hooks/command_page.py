"""The page of commands: mkdocs-click shows markers of click for "no default", and does not say what is required."""

from __future__ import annotations

import re

import click

NO_DEFAULT = re.compile(r"<td>(?:<code>Sentinel\.UNSET</code>|None|)</td>(?=\s*</tr>)")


def with_required(html: str) -> str:
    """The page with the word "required" where a command needs an option, and an empty cell where there is no default."""
    from memvec.cli.main import program

    required = dict(_required("memvec", program))

    def section(found: re.Match[str]) -> str:
        names = required.get(found["id"], set())
        return re.sub(r"<tr>.*?</tr>", lambda row: _row(row[0], names), found[0], flags=re.DOTALL)

    return re.sub(r'<h\d id="(?P<id>memvec[\w-]*)">.*?(?=<h\d id="memvec|\Z)', section, html, flags=re.DOTALL)


def _row(row: str, required: set[str]) -> str:
    needed = any(f"<code>{name}</code>" in row for name in required)
    return NO_DEFAULT.sub("<td><em>required</em></td>" if needed else "<td></td>", row)


def _required(heading: str, command: click.Command) -> list[tuple[str, set[str]]]:
    """The required options of a command and of the commands below it, by the id of their heading."""
    named = {name for option in command.params if option.required for name in option.opts if name.startswith("-")}
    found = [(heading, named)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if below := command.get_command(context, name):
                found += _required(f"{heading}-{name}", below)
    return found
