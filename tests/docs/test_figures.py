"""Figures in README and in the pages are those of benchmarks/results/.

How to write a figure:

- In a page under docs/, write a placeholder: `{{ fit full.token_steps.median .0f }}`. The build fills it. In
  docs/results/ a number typed by hand fails a test here, unless the page's front matter lists it under `given`: numbers
  that say how something was measured, which no run measured.
- In README.md, write the number and a mark right behind it: `295<!-- = fit full.token_steps.median .0f -->`.
  `make figures` writes the numbers from the marks. In a table with a mark, every number in text is marked;
  numbers in `code` and in names such as H100 are not figures.

Three words name a figure: the file in benchmarks/results/ without .json, the dotted path in it or in what
docs/hooks/views.py derives from it, and a format of Python's.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import figures
import fit as yardstick
import pytest
import result_tables
import site_hook
import views

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "LOG.md")
TYPED = re.compile(r"(?<![\w.,§-])\d(?:[\d,]*\d)?(?:\.\d+)?%?(?![\w-])")


def bare(text: str) -> str:
    """The words of a text: without code, addresses of links, comments and years."""
    text = re.sub(r"```.*?```|`[^`]*`|<!--.*?-->|\]\([^)]*\)", " ", text, flags=re.DOTALL)
    return re.sub(r"\b(?:19|20)\d\d\b", " ", text)


class TestReadme:
    """README.md has its figures in its text."""

    def test_marked_figures_are_those_of_the_files(self) -> None:
        """`make figures` would change nothing."""
        assert len(figures.MARK.findall(README)) >= 6, "README has hardly any marked figure"
        assert figures.refreshed(README) == README, "README has other figures than benchmarks/results/: make figures"

    def test_tables_with_a_mark_have_no_other_number(self) -> None:
        """A table of results cannot hold a figure that nobody checks."""
        tables = re.findall(r"(?:^\|.*\n)+", README, re.MULTILINE)
        marked = [table for table in tables if "<!-- =" in table]
        assert marked
        for table in marked:
            unmarked = figures.MARK.sub(" ", table)
            assert TYPED.findall(bare(unmarked)) == [], f"numbers without a mark in:\n{unmarked}"

    def test_a_wrong_figure_is_noticed(self) -> None:
        """The figure changes and the mark stays."""
        mark = "<!-- = damage cases ,.0f -->"
        right = f"{figures.view('damage')['cases']:,}{mark}"
        assert figures.refreshed(f"of 9,999{mark} stores") == f"of {right} stores"
        assert figures.refreshed(right) == right
        assert figures.refreshed(f"−1.5%{mark}") == right

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("1<!-- = nowhere cases .0f -->", "expected a file of benchmarks/results/"),
            ("1<!-- = damage nothing .0f -->", "no 'nothing' in"),
            ("1<!-- = damage by_damage .0f -->", "expected the path of a number"),
            ("1<!-- = damage cases -->", "a path and a format"),
            ("1<!-- = damage cases .0q -->", "expected a format"),
            ("all<!-- = damage cases .0f -->", "expected a number right before"),
        ],
    )
    def test_marks_that_name_no_figure_are_errors(self, text: str, said: str) -> None:
        """None is left as it stands."""
        with pytest.raises(figures.FigureError, match=said):
            figures.refreshed(text)


class TestPages:
    """Pages have placeholders."""

    @pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT / "docs").as_posix())
    def test_every_placeholder_is_filled(self, page: Path) -> None:
        """The build would fail on the same page."""
        filled = figures.fill(page.read_text("utf-8"), site_hook.FUNCTIONS)
        assert not figures.PLACEHOLDER.search(bare(filled))

    @pytest.mark.parametrize("page", sorted((ROOT / "docs" / "results").glob("*.md")), ids=lambda page: page.stem)
    def test_results_have_no_figure_typed_by_hand(self, page: Path) -> None:
        """Only the numbers under `given` in the front matter are typed."""
        _, front, text = page.read_text("utf-8").split("---\n", 2)
        listed = re.fullmatch(r"given: \[(.*)\]\n", front)
        assert listed, front
        given = {number.strip() for number in re.split(r",\s", listed[1]) if number}
        typed = set(TYPED.findall(bare(figures.PLACEHOLDER.sub(" ", text))))
        assert typed <= given, f"typed by hand: {sorted(typed - given)}"
        assert given <= typed, f"listed under given, not in the text: {sorted(given - typed)}"

    def test_every_results_file_is_shown(self) -> None:
        """No measurement lies in the folder unread."""
        text = "".join(page.read_text("utf-8") for page in (ROOT / "docs" / "results").glob("*.md"))
        for file in sorted(figures.RESULTS.iterdir()):
            assert (f"`{file.name}`" if file.suffix == ".json" else f"pictures/{file.name}") in text, file.name

    def test_fill(self) -> None:
        """Figures, quoted paths, calls, and what is neither."""
        said = figures.fill(
            "{{ damage cases ,.0f }} and {{kills kills .0f}}, {{ twice ab }}", {"twice": lambda a: a * 2}
        )
        assert said == f"{figures.view('damage')['cases']:,} and {figures.view('kills')['kills']}, abab"
        seconds = figures.view("roundtrip")["seconds"]["verify --decode"]
        assert figures.fill('{{ roundtrip "seconds.verify --decode" .1f }}', {}) == f"{seconds:.1f}"
        with pytest.raises(figures.FigureError, match="thrice"):
            figures.fill("{{ thrice ab c }}", {})
        with pytest.raises(figures.FigureError, match="expected a table among"):
            site_hook.table("nothing", "fit")


class TestViews:
    """What is derived from the JSON."""

    @pytest.mark.parametrize("name", ["fit", "fit-bfloat16", "fit-anchored"])
    def test_the_page_and_the_benchmark_make_the_same_table(self, name: str) -> None:
        """Both take medians, quartiles and shares of the same results."""
        rows = json.loads((figures.RESULTS / f"{name}.json").read_text())["results"]
        theirs = yardstick.table([yardstick.Result(**row) for row in rows]).splitlines()[2:]
        ours = result_tables.fit(name).splitlines()[2:]
        assert [line.split(" | ")[1:] for line in ours] == [line.split(" | ")[1:] for line in theirs]

    def test_recipes_of_the_benchmark_have_names(self) -> None:
        """A new recipe needs a short name."""
        assert set(views.RECIPES) == {yardstick.MEMVEC, *(recipe.name for recipe in yardstick.recipes(1, 1))}

    def test_capacity_of_all_texts(self) -> None:
        """One source and one size: the same as the summary has."""
        found = figures.view("capacity")
        for name in ("tokens", "tokens_spread", "bits", "bits_spread", "alone", "published"):
            assert found["all"][name] == pytest.approx(found["novel_1"][name])

    def test_times(self) -> None:
        """Ratios have the right side above the line."""
        assert figures.view("fit")["full"]["times_token_steps"] == pytest.approx(8.0, abs=0.05)
        assert figures.view("throughput-gpu")["times_rival"] == pytest.approx(556, abs=1)
        assert figures.view("decode-gpu")["times"] > 3
        assert figures.view("roundtrip")["times_bytes"]["zstd"] < 1 < figures.view("roundtrip")["times_bytes"]["vector"]
