"""The pages: their commands and programs run, print what the page prints, and name only what exists.

By default the tiny LM stands in for the default model, and figures may differ from the page's. With the default model:

    MEMVEC_PAGES=check python -m pytest tests/docs/test_pages.py     compare every output as it is printed
    MEMVEC_PAGES=write python -m pytest tests/docs/test_pages.py     write outputs that differ into the pages
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import pytest
from printed import MEMVEC, ROOT, Session, Step, agrees, shape, steps
from test_words import phrases

DOCS = ROOT / "docs"
MODE = os.environ.get("MEMVEC_PAGES", "tiny")
RUN = [DOCS / "quickstart.md", DOCS / "concepts.md", *sorted((DOCS / "guides").glob("*.md"))]
PROSE = [*RUN, *(DOCS / f"{name}.md" for name in ("index", "glossary", "faq")), *(DOCS / "explanation").glob("*.md")]
ALL = [ROOT / "README.md", *PROSE]
OWN = [*ALL, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
LETTERS = {
    "jane.txt": b"Whitby, 3 May. The ferry leaves at ten past six. Ingrid keeps the only key to its engine room.\n",
    "tom.txt": b"Oslo, 9 June. The apples arrived, two crates of them, and the cider press is mended at last.\n",
    "seal.png": b"\x89PNG\r\n\x1a\n" + bytes(range(0, 256, 2)),
}
# What the tiny LM needs beside a command's own options.
TINY_OPTIONS = {
    "pack": "--nats-per-vector 9 --segment-tokens 32 --max-steps 150 --learning-rate 1 --dtype float32",
    "add": "--nats-per-vector 9 --segment-tokens 32 --max-steps 150 --learning-rate 1 --dtype float32",
    "calibrate": "--segments 1",
    "capacity": "--passages 1 --steps 20 --vectors 1",
}
DEFAULT = ("pack", "calibrate", "capacity", "fingerprint")  # take the default model where none is named


def for_tiny(command: str, tiny: str) -> str:
    """The command with the tiny LM for the default model."""

    def more(found: re.Match[str]) -> str:
        verb = found[2]
        options = TINY_OPTIONS.get(verb, "")
        if verb in DEFAULT and not re.search(r" (-m|--model) ", command):
            options += f" {tiny}" if verb == "fingerprint" else f" -m {tiny}"
        if "--kind context" in command or "--kind both" in command:
            options += " --distil-steps 2"
        return f"{found[1]}{verb} {options} " if options else found[0]

    return re.sub(r"((?<![\w./-])memvec )([a-z]+)\b ?", more, command)


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Path:
    """The folder in which every guide begins: two letters, a picture, their store, one memory, and the model."""
    import memvec

    folder = tmp_path_factory.mktemp("letters")
    (folder / "letters").mkdir()
    for name, data in LETTERS.items():
        (folder / "letters" / name).write_bytes(data)
    options: dict[str, Any] = {}
    checkpoint = memvec.models()[0].path
    if MODE == "tiny":
        options, checkpoint = small(tiny), tiny
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        memvec.pack(["letters/"], "letters.memvec", **options)
        memvec.pack(["letters/jane.txt"], "letters.memvec", kind="context", **options)
    (folder / "checkpoint").symlink_to(str(checkpoint))
    return folder


def small(tiny: str) -> dict[str, Any]:
    """The arguments that `pack` needs with the tiny LM."""
    from conftest import TINY_SETTINGS

    import memvec

    settings = memvec.PackSettings(**TINY_SETTINGS)
    context = memvec.ContextSettings(steps=2)
    return {"model": tiny, "dtype": "float32", "settings": settings, "context": context}


@pytest.fixture
def session(
    letters: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: Any
) -> Iterator[Session]:
    """A copy of that folder to run a page in."""
    import memvec

    folder = tmp_path / "page"
    shutil.copytree(letters, folder, symlinks=True)
    monkeypatch.chdir(folder)
    if MODE != "tiny":
        yield Session(folder, lambda command: command, capsysbinary)
        return
    monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))  # `calibrate` stores what it measured
    for verb in ("pack", "add", "estimate", "calibrate", "capacity"):
        monkeypatch.setattr(memvec, verb, _with_tiny(getattr(memvec, verb), verb, tiny))
    yield Session(folder, functools.partial(for_tiny, tiny=tiny), capsysbinary)


def _with_tiny(verb: Any, name: str, tiny: str) -> Any:
    options = small(tiny) if name in ("pack", "add") else {"model": tiny}

    @functools.wraps(verb)
    def call(*args: Any, **given: Any) -> Any:
        return verb(*args, **{**options, **given})

    return call


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # of the hosts that the guides load
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_what_a_page_runs_prints_what_the_page_says(page: Path, session: Session, tiny: str) -> None:
    """Each command and program of the page, in order, in one folder."""
    text = page.read_text()
    if page.stem == "quickstart":  # it begins in an empty folder
        shutil.rmtree(session.folder)
        session.folder.mkdir()
        os.chdir(session.folder)
    for step in steps(text):
        if not step.runs:
            continue
        output = session.run(step)
        where = f"{page.name}:{step.line}: {step.source}"
        if step.printed is None and step.language == "python":
            continue
        expected = step.printed or ""
        if MODE == "tiny":
            if not step.only_default:
                said = shape(output.replace(tiny, "smollm2-135m"))
                assert agrees(shape(expected), said), f"{where}\n--- printed\n{shape(expected)}\n--- got\n{said}"
            elif session.code:
                assert expected, f"{where} ended with {session.code}:\n{output}"
        elif not agrees(expected, output):
            assert MODE == "write", f"{where}\n--- printed\n{expected}\n--- got\n{output}"
            text = _rewritten(text, step, output)
    if text != page.read_text():
        page.write_text(text)


def _rewritten(text: str, step: Step, output: str) -> str:
    """The page with another output behind a step; how long a thing took is left open."""
    output = re.sub(r"\b\d+:\d\d\b", "…", output)
    if step.language == "python":
        return text.replace(f"{step.source}```\n\n```text\n{step.printed}", f"{step.source}```\n\n```text\n{output}", 1)
    lines = text.splitlines(keepends=True)
    first = next(i for i in range(step.line - 1, len(lines)) if lines[i].startswith("$ "))
    while lines[first].rstrip("\n").endswith("\\"):
        first += 1
    old = (step.printed or "").count("\n")
    return "".join(
        [*lines[: first + 1], output.rstrip("\n") + "\n" if output.strip() else "", *lines[first + 1 + old :]]
    )


def commands() -> dict[str, click.Command]:
    """Every command of the program by its words."""
    from memvec.cli.main import program

    found: dict[str, click.Command] = {}

    def walk(name: str, command: click.Command) -> None:
        found[name] = command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for sub in command.list_commands(context):
                walk(f"{name} {sub}".strip(), command.get_command(context, sub) or command)

    walk("", program)
    return found


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.stem)
def test_every_command_and_option_exists(page: Path) -> None:
    """In a block an option belongs to its command; in prose some command has it."""
    known, text = commands(), page.read_text()
    options = {
        name: {o for p in c.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
        for name, c in known.items()
    }
    for step in steps(text):
        if step.language != "console":
            continue
        for call in MEMVEC.split(step.source)[1:]:
            words = re.split(r"[|&>;]", call)[0].split()
            name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
            assert name in known, f"{page.name}:{step.line}: no command {name}"
            for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", re.sub(r'"[^"]*"', "", " ".join(words))):
                assert option in options[name], f"{page.name}:{step.line}: {name} has no {option}"
    everywhere = set().union(*options.values())
    for option in re.findall(r"`(?:[^`\n]* )?(--[a-z][a-z-]+)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        assert option in everywhere or option in FOREIGN, f"{page.name}: nothing has {option}"
    for name in re.findall(r"`memvec ([a-z]+)", text):
        assert name in known, f"{page.name}: no command {name}"


FOREIGN = {  # options of other programs
    "--no-deps", "--enable-prompt-embeds", "--no-enable-prefix-caching", "--disable-radix-cache", "--index-url",
}  # fmt: skip


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.stem)
def test_every_python_name_exists(page: Path) -> None:
    """`memvec.NAME` is exported or a package, and what a block imports is there."""
    import memvec

    for name in set(re.findall(r"(?<![\w./-])memvec\.([A-Za-z_]\w*)(?![\w-])(?<!\.json)", page.read_text())):
        if (ROOT / "memvec" / name / "__init__.py").is_file():
            importlib.import_module(f"memvec.{name}")
        else:
            assert name in (*memvec.__all__, "open", "errors"), f"{page.name}: memvec has no {name}"
    for step in steps(page.read_text()):
        if step.language == "python" and not step.runs:
            compile(step.source, page.name, "exec")
        if step.language == "python":
            for module, names in re.findall(r"^from (memvec[\w.]*) import ([\w, ]+)$", step.source, re.MULTILINE):
                for name in names.split(","):
                    assert hasattr(importlib.import_module(module), name.strip()), f"{page.name}: {module}.{name}"


@pytest.mark.parametrize("page", ALL, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files that a page names in links and pictures, and headings within pages."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        path, _, heading = (target[0] or target[1]).partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: no {path}"
        if heading and file.suffix == ".md" and file.exists():
            assert heading in _headings(file.read_text()), f"{page.name}: no heading #{heading} in {file.name}"


def _headings(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.stem)
def test_a_page_names_the_next_page_and_a_guide_what_can_go_wrong(page: Path) -> None:
    text = page.read_text()
    assert re.search(r"^Next: \[", text, re.MULTILINE)
    assert "## What can go wrong" in text or page not in RUN or page.stem == "concepts"


@pytest.mark.parametrize("page", OWN, ids=lambda page: page.name)
def test_no_banned_phrase(page: Path) -> None:
    """Also not in the files beside README, which are in no folder that other tests look through."""
    assert phrases(page.read_text()) == []


@pytest.mark.parametrize("picture", sorted((DOCS / "img").glob("*.svg")), ids=lambda picture: picture.stem)
def test_pictures_are_svg_for_dark_and_light(picture: Path) -> None:
    """Each has a title for readers that cannot see it, a size, and colours for both backgrounds."""
    text = picture.read_text()
    root = ElementTree.fromstring(text)
    assert root.get("viewBox") and root.find("{http://www.w3.org/2000/svg}title") is not None
    assert "prefers-color-scheme: dark" in text
    names = [p.relative_to(DOCS).as_posix() for p in (picture,)]
    assert any(name.removeprefix("img/") in page.read_text() for page in ALL for name in names)


def test_the_layer_picture_is_the_import_contract() -> None:
    """From top to bottom, the packages that the contract names; everything below them is ground."""
    layers = re.search(r"containers = .*?layers = \[\n(.*?)\n\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    assert layers
    wanted = [sorted(re.findall(r"\w+", line)) for line in layers[1].splitlines()]
    drawn: dict[int, list[str]] = {}
    for y, name in re.findall(
        r'<text class="name left" x="\d+" y="(\d+)">(\w+)</text>', (DOCS / "img/layers.svg").read_text()
    ):
        drawn.setdefault(int(y), []).append(name)
    rows = [sorted(drawn[y]) for y in sorted(drawn)]
    assert rows[-1] == ["ground"] and rows[:-1] == wanted[: len(rows) - 1]
    packages = {file.parent.name for file in ROOT.glob("memvec/*/__init__.py")}
    assert packages == {name for row in rows[:-1] for name in row}
