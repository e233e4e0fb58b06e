"""benchmarks/question_sets.py reads people's questions and draws documents by seed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from question_sets import facts, prose, question_set, sample

from memvec.evaluation.questions import Question


def people(folder: Path) -> Path:
    """A small file in the form of XQuAD. The second article stands first, its second paragraph too."""
    lines = [
        {
            "article": article,
            "paragraph": paragraph,
            "text": f"{article}, part {paragraph}.\u2028Its end.",
            "questions": [{"question": f"{article} {paragraph} {n}?", "answer": f"{n}"} for n in range(paragraph + 1)],
        }
        for article in ("Oxygen", "Fresno,_California")
        for paragraph in (1, 0)
    ]
    file = folder / "people-half.jsonl"
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    return file


def chosen(name: str, **changes: Any) -> Any:
    return question_set(
        name, **{"documents": None, "seed": 0, "only": "*", "quick": False, "unit": "paragraph", **changes}
    )


class TestXquad:
    """Paragraphs and articles of XQuAD."""

    def test_paragraphs(self, tmp_path: Path) -> None:
        found = chosen(f"xquad:{people(tmp_path)}")
        assert found.name == "xquad:people-half.jsonl" and found.origin["unit"] == "paragraph"
        assert list(found.texts) == [f"{name}-{n}.txt" for name in ("Fresno,_California", "Oxygen") for n in (0, 1)]
        assert found.texts["Oxygen-1.txt"] == "Oxygen, part 1.\u2028Its end."
        assert [q for q in found.questions if q.document == "Oxygen-1.txt"] == [
            Question("Oxygen-1.txt", "Oxygen 1 0?", "0"),
            Question("Oxygen-1.txt", "Oxygen 1 1?", "1"),
        ]
        assert len(found.questions) == 6

    def test_articles(self, tmp_path: Path) -> None:
        found = chosen(f"xquad:{people(tmp_path)}", unit="article", documents=1, only="Ox*")
        assert found.texts == {"Oxygen.txt": "Oxygen, part 0.\u2028Its end.\n\nOxygen, part 1.\u2028Its end."}
        assert [q.question for q in found.questions] == ["Oxygen 0 0?", "Oxygen 1 0?", "Oxygen 1 1?"]
        assert {q.document for q in found.questions} == {"Oxygen.txt"} and found.origin["unit"] == "article"

    def test_whole_documents(self, tmp_path: Path) -> None:
        """A drawn document keeps all of its questions, and none of another's."""
        file, every = people(tmp_path), chosen(f"xquad:{people(tmp_path)}")
        for seed in range(4):
            found = chosen(f"xquad:{file}", documents=2, seed=seed)
            assert len(found.texts) == 2
            assert found.questions == [q for q in every.questions if q.document in found.texts]


class TestNaturalQuestions:
    """Passages of Natural Questions."""

    @pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
    def test_read(self, ending: str, tmp_path: Path) -> None:
        rows = [("one", "who", ["A", "B"]), ("two", "when", ["3"]), ("one", "where", ["C"])]
        text = "".join(
            json.dumps({"title": "T/1", "text": passage, "question": asked, "answers": answers}) + "\n"
            for passage, asked, answers in rows
        )
        file = tmp_path / f"n.{ending}"
        file.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
        found = chosen(f"nq:{file}")
        assert found.texts == {"0001.txt": "one", "0002.txt": "two"} and "unit" not in found.origin
        assert found.questions == [
            Question("0001.txt", "who", "A", ["A", "B"]),
            Question("0002.txt", "when", "3"),
            Question("0001.txt", "where", "C"),
        ]


class TestSample:
    """Documents drawn by seed."""

    names = tuple(f"{n}.txt" for n in range(40))

    def test_seed(self) -> None:
        assert sample(self.names, 12, 1) == sample(self.names, 12, 1) != sample(self.names, 12, 2)
        assert sample(self.names, 12, 3) != list(self.names[:12])

    def test_nested(self) -> None:
        """A larger sample holds every smaller one, in the order of the set. All are there without a count."""
        for small, large in ((1, 2), (12, 13), (12, 40), (40, None)):
            few, many = sample(self.names, small, 5), sample(self.names, large, 5)
            assert len(few) == small and few == [name for name in many if name in few]
        assert sample(self.names, None, 5) == list(self.names)

    def test_articles(self) -> None:
        """Every article gives one paragraph before any gives a second."""
        names = [f"{article}-{n}.txt" for article in "ABCDEF" for n in range(5)]
        orders = set()
        for seed in range(20):
            few, many = sample(names, 6, seed), sample(names, 12, seed)
            assert [name[0] for name in few] == list("ABCDEF") and set(few) < set(many)
            assert [name[0] for name in many] == list("AABBCCDDEEFF")
            orders.add(tuple(few))
        assert len(orders) > 15

    def test_each_alike(self) -> None:
        """Over many seeds each document is drawn about as often."""
        counts = [sum(name in sample(self.names, 10, seed) for seed in range(400)) for name in self.names]
        assert min(counts) > 60 and max(counts) < 140


@pytest.mark.parametrize("name", ["squad:x", "xquad", "xquad:", "other"])
def test_unknown(name: str) -> None:
    with pytest.raises(ValueError, match=r"is no set. Give report, .* xquad:PATH or nq:PATH"):
        chosen(name)


def test_own() -> None:
    """The sets of the project itself: every question is about one of the documents."""
    for found in (facts("report", True, None, "*"), facts("develop", False, 3, "*"), prose(4)):
        assert {q.document for q in (*found.questions, *found.further)} == set(found.texts)
        assert len(found.texts) == {"report": 6, "develop": 3, "prose": 4}[found.name]
