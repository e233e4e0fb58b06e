"""Docstrings of the exported names have every section, and their examples run.

An example may use these names:
- `memvec`
- `store`: a copy of a store of the documents "harbour.txt" and "letters/jane.txt", with exact records, memories and keys
- `text_folder`: the folder with these two files
- `tmp`: an empty folder, which is also the current one
- `model`: the folder of the tiny model

Output that an example shows is compared; "..." in it stands for any text. Output that it does not show may be anything.
"""

from __future__ import annotations

import builtins
import doctest
import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_SETTINGS, write_tree

import memvec
from memvec import errors
from memvec.settings import ContextSettings, PackSettings

NAMES = [name for name in (*memvec.__all__, "open") if name != "__version__"]
# Names that raise no error of memvec, so that they have no "Raises:".
RAISES_NOTHING = {"Memory", "MemvecError", "Runtime", "Source", "Store", "models"}

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example")
TEXTS = {
    "harbour.txt": b"The harbour lies under the old fort. Every morning at six the pilots row out to the lighthouse, and "
    b"the first ferry leaves for the island at seven.\n",
    "letters/jane.txt": b"My dear sister, I write from the inn at Meryton, where it rains. Mr. Bennet sends you his "
    b"compliments, and the carriage will come for you on Friday.\n",
}


def sections(name: str) -> dict[str, str]:
    """The sections of a name's docstring, without their indent."""
    found: dict[str, str] = {}
    heading = ""
    for line in (inspect.getdoc(getattr(memvec, name)) or "").splitlines():
        if re.fullmatch(rf"({'|'.join(SECTIONS)}):", line):
            heading = line[:-1]
            found[heading] = ""
        elif line and not line.startswith(" "):
            heading = ""
        elif heading:
            found[heading] += line[4:] + "\n"
    return found


def parameters(name: str) -> list[str]:
    """The parameters of a function, or of a class when it is called."""
    exported = getattr(memvec, name)
    if inspect.isclass(exported) and issubclass(exported, BaseException):
        return []
    return [p.name for p in inspect.signature(exported).parameters.values()]


def entries(section: str) -> list[str]:
    """The names that a section explains: what stands before the first colon of a line without indent."""
    heads = [line.partition(":")[0] for line in section.splitlines() if line and not line.startswith(" ")]
    return [name.strip(" `*") for head in heads for name in head.split(",")]


def expected(name: str) -> set[str]:
    """The sections a docstring must have. Fields of a dataclass may stand under Attributes."""
    exported = getattr(memvec, name)
    needed = {"Example"}
    if parameters(name):
        needed.add("Attributes" if "Attributes" in sections(name) else "Args")
    if not inspect.isclass(exported) and inspect.signature(exported).return_annotation != "None":
        needed.add("Yields" if "Yields" in sections(name) else "Returns")
    if name not in RAISES_NOTHING:
        needed.add("Raises")
    return needed


class ShownOutput(doctest.OutputChecker):
    """Compare the output of a line only where the example shows it."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small text files. Examples do not change it."""
    return write_tree(tmp_path_factory.mktemp("texts"), TEXTS)


@pytest.fixture(scope="session")
def packed_texts(text_folder: Path, tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the folder with exact records, memories and keys. Examples get copies of it."""
    store = tmp_path_factory.mktemp("examples") / "texts.memvec"
    context = ContextSettings(steps=4, aside_rows=1, question_rows=2)
    settings = PackSettings(**TINY_SETTINGS)
    memvec.pack([text_folder], store, model=tiny, kind="both", settings=settings, context=context, dtype="float32")
    return store


@pytest.mark.parametrize("name", NAMES)
def test_sections(name: str) -> None:
    """No section is missing or empty."""
    found = sections(name)
    assert expected(name) <= {heading for heading, text in found.items() if text.strip()}
    assert ">>> " in found["Example"]


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name: str) -> None:
    """Args names each parameter once, in the order of the signature."""
    found = sections(name)
    assert entries(found.get("Attributes", found.get("Args", ""))) == parameters(name)


@pytest.mark.parametrize("name", NAMES)
def test_errors(name: str) -> None:
    """Raises names errors of memvec or of Python."""
    for error in entries(sections(name).get("Raises", "")):
        assert issubclass(getattr(errors, error, None) or getattr(builtins, error), BaseException)


@pytest.mark.parametrize("name", [name for name in NAMES if ">>> " in sections(name).get("Example", "")])
def test_example(
    name: str, packed_texts: Path, text_folder: Path, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example runs and prints what it shows."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MEMVEC_CACHE", str(tmp_path / "cache"))
    scope: dict[str, Any] = {
        "memvec": memvec,
        "store": Path(shutil.copytree(packed_texts, tmp_path / "texts.memvec")),
        "text_folder": text_folder,
        "tmp": folder,
        "model": tiny,
    }
    test = doctest.DocTestParser().get_doctest(sections(name)["Example"], scope, name, None, None)
    report: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.REPORT_ONLY_FIRST_FAILURE
    doctest.DocTestRunner(ShownOutput(), optionflags=flags).run(test, out=report.append)
    assert test.examples and not report, "".join(report)
