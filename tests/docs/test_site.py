"""The build of the pages, as `make docs` does it: strictly, and with nothing from a network.

`make test` installs the `docs` extra, so these tests run in CI. They are skipped only where it is missing, as on Python
3.10, where its packages do not run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest
from filelock import FileLock

import memvec
from memvec.cli.main import program

ROOT = Path(__file__).parents[2]
for needed in ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers", "mkdocs_click"):
    pytest.importorskip(
        needed, reason="the docs extra is not installed: pip install -e '.[docs]' on Python 3.11 or newer"
    )


class Loaded(HTMLParser):
    """What a page loads by itself, and the ids it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.pictures: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Scripts, styles, pictures and frames; not links that a reader follows."""
        given = {name: value or "" for name, value in attrs}
        self.ids.add(given.get("id", ""))
        if tag in ("script", "img", "iframe", "source") and "src" in given:
            self.addresses.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "preload", "preconnect", "icon", "modulepreload"):
            self.addresses.append(given["href"])
        if tag == "img":
            self.pictures.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages. Processes of one test run share a build: it takes half a minute."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "built-pages"
    with FileLock(f"{folder}.lock"):
        if not (folder / "index.html").is_file():
            build(folder)
    return folder


def build(folder: Path) -> None:
    """Build strictly. A proxy that nobody answers stands for a machine without network."""
    dead = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **dead, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.fail(f"mkdocs build --strict: {(done.stdout + done.stderr)[-2000:]}", pytrace=False)


def test_every_page_of_the_navigation_is_built(site: Path) -> None:
    """mkdocs.yml names each Markdown file of docs/."""
    named = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]))
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert named == there
    assert all((site / name.replace(".md", ".html")).is_file() for name in named - {"index.md"})
    assert not (site / "hooks").exists()


def test_pages_load_nothing_from_a_network(site: Path) -> None:
    """Fonts, scripts and pictures are files of the site."""
    for page in site.rglob("*.html"):
        for address in Loaded(page.read_text("utf-8")).addresses:
            assert not re.match(r"(?:https?:)?//", address), f"{page.name} loads {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", style.read_text("utf-8")), style


def test_pictures_are_there(site: Path) -> None:
    """Each page's pictures are files of the site; the results have theirs."""
    shown = {page: Loaded(page.read_text("utf-8")).pictures for page in site.rglob("*.html")}
    for page, pictures in shown.items():
        for picture in pictures:
            assert picture.startswith("data:") or (page.parent / picture).is_file(), f"{page.name}: {picture}"
    assert shown[site / "results" / "memories.html"] == ["pictures/conditioning.svg"]
    assert shown[site / "results" / "capacity.html"] == ["pictures/capacity-gpu.svg"]


def test_the_api_page_has_an_entry_for_each_name(site: Path) -> None:
    """With its parameters: `pack` has a table of them."""
    text = (site / "reference" / "api.html").read_text("utf-8")
    ids = Loaded(text).ids
    assert {f"memvec.{name}" for name in {*memvec.__all__, "open"} - {"__version__"}} <= ids
    assert "lock_wait" in text and "Raises:" in text
    assert "memvec.types.PackReport" in Loaded((site / "reference" / "types.html").read_text("utf-8")).ids


def test_examples_of_docstrings_are_shown_as_code(site: Path) -> None:
    """With prompts and without; griffe alone would show `Example:` as prose."""
    from docstring_examples import shown

    text = (site / "reference" / "api.html").read_text("utf-8")
    assert '<span class="gp">&gt;&gt;&gt; </span>' in text and "<p>&gt;&gt;&gt;" not in text
    said = "Do it.\n\nExample:\n    with it:\n        go()\n\nRaises:\n    Error: No."
    fenced = "Do it.\n\nExamples:\n    ```python\n    with it:\n        go()\n    ```\n\nRaises:\n    Error: No."
    assert shown(said) == fenced
    assert shown("Example:\n    >>> 1\n    1\n") == "Examples:\n    >>> 1\n    1\n"


def test_a_constant_as_a_default_is_shown_as_its_value(site: Path) -> None:
    from docstring_examples import valued

    assert valued("DEFAULT_MODEL", "memvec.packing.pack") == "'smollm2-135m'"
    assert valued("None", "memvec.packing.pack") == "None" and valued("unwatched", "memvec.packing.pack") == "unwatched"
    assert "DEFAULT_MODEL" not in (site / "reference" / "api.html").read_text("utf-8")


def test_the_command_page_has_every_command(site: Path) -> None:
    """Also those of a group, and no marker of click's."""
    commands = program.list_commands(click.Context(program))
    text = (site / "reference" / "cli.html").read_text("utf-8")
    ids = Loaded(text).ids
    assert {f"memvec-{name}" for name in commands} <= ids, sorted(ids)
    assert "memvec-index-build" in ids
    assert "--dry-run" in text and "Sentinel" not in text and "<td>None</td>" not in text


def test_the_command_page_says_what_is_required(site: Path) -> None:
    """`-o` of `pack` is, `-o` of `unpack` is not."""
    text = (site / "reference" / "cli.html").read_text("utf-8")
    for name, needed in (("pack", True), ("unpack", False)):
        section = re.search(rf'<h3 id="memvec-{name}">.*?(?=<h3)', text, re.DOTALL)
        assert section
        row = re.search(r"<tr>\s*<td><code>-o</code>.*?</tr>", section[0], re.DOTALL)
        assert row and ("<em>required</em>" in row[0]) is needed


def test_no_placeholder_is_left(site: Path) -> None:
    """A page shows figures, not their names."""
    for page in (site / "results").glob("*.html"):
        assert "{{" not in page.read_text("utf-8"), page.name
