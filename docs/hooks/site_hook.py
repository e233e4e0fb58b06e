"""The hook of mkdocs: fills the placeholders of every page and brings the pictures of benchmarks/results/ along."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import figures
import reference
import result_tables
import safety_tables
from command_page import with_required
from json_output import json_output

PICTURES = "results/pictures"
VERBATIM = {"LOG.md"}  # a log: what it shows in braces is meant so


def table(kind: str, *names: str) -> str:
    """`{{ table KIND FILE … }}`: the table of that kind from these results files."""
    tables = result_tables.TABLES | safety_tables.TABLES
    if kind not in tables:
        raise figures.FigureError(f"expected a table among {', '.join(sorted(tables))}; found {kind!r}")
    return tables[kind](*names)


FUNCTIONS: dict[str, Callable[..., str]] = {
    "table": table,
    "api": reference.api,
    "types": reference.types,
    "error-classes": reference.error_classes,
    "settings": reference.settings,
    "default": reference.default_of,
    "exit-codes": reference.exit_codes,
    "generate-arguments": reference.generate_arguments,
    "include": reference.included,
    "json-output": lambda: json_output(reference.SCHEMAS),
}


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures, as results/pictures/NAME.svg."""
    from mkdocs.structure.files import File

    for picture in sorted(figures.RESULTS.glob("*.svg")):
        files.append(File.generated(config, f"{PICTURES}/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill the placeholders of a page; the error names the page."""
    if page.file.src_uri in VERBATIM:
        return markdown
    try:
        return figures.fill(markdown, FUNCTIONS)
    except figures.FigureError as error:
        raise figures.FigureError(f"docs/{page.file.src_uri}: {error}") from error


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Say on the page of commands which options are required."""
    return with_required(html) if page.file.src_uri == "reference/cli.md" else html
