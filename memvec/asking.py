"""Questions that the LM itself asks about a text, shown by an example how; no other model is needed.

The example is of the project's own writing. What a small model asks is often clumsy and sometimes wrong; that does no
harm, since only what the teacher says to it is learnt, not the answer it drew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memvec.arms import embedded
from memvec.lm import FrozenLM
from memvec.rows import sample

Generator = Callable[[str, int], Sequence[tuple[str, str]]]  # (text, count) -> (question, answer) pairs

HEADS = (" What", " Who", " Where", " When", " How", " Which", " Why", " What", " Who", " How")
LONGEST = 40  # tokens of a question and its answer
TEMPERATURE = 0.8
QUESTION, ANSWER = "\n\nQuestion:", "\nAnswer:"

EXAMPLE_TEXT = (
    "Bulletin of the Marlow Kite Society. On Sunday 9 March the spring meeting was held on Tabor Hill in a cold wind. "
    "Nineteen kites flew, and the prize of 40 florins went to Hester Pym for a red box kite made of silk. The old record "
    "of 612 metres, set by Karl Dunning, was not beaten. Tea was served in the mill because the pavilion roof had blown "
    "off in January. The next meeting will be judged by Ana Sorrel, the postmistress of Wick."
)
EXAMPLE = (
    ("Where was the spring meeting of the Kite Society held?", "Tabor Hill"),
    ("How many kites flew at the meeting?", "nineteen"),
    ("Who won the prize?", "Hester Pym"),
    ("What was the winning kite made of?", "silk"),
    ("What record did Karl Dunning set?", "612 metres"),
    ("Why was tea served in the mill?", "the pavilion roof had blown off"),
    ("Who will judge the next meeting?", "Ana Sorrel"),
)


def self_asked(lm: FrozenLM, text: str, count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Up to `count` (question, answer) pairs about a text, none twice, in the order drawn."""
    shots = EXAMPLE_TEXT + "".join(f"{QUESTION} {q}{ANSWER} {a}" for q, a in EXAMPLE)
    bos = lm.tokenizer.bos_token_id
    start = ([] if bos is None else [bos]) + lm.encode(f"{shots}\n\n\n{text}{QUESTION}")
    heads = [lm.encode(HEADS[i % len(HEADS)])[0] for i in range(count)]
    drawn = sample(lm, [embedded(lm, start)], [0] * count, heads, LONGEST, TEMPERATURE, seed)
    pairs = (_parse(lm.decode(ids)) for ids in drawn)
    return list(dict.fromkeys(pair for pair in pairs if pair))


def _parse(said: str) -> tuple[str, str] | None:
    """The question and the answer in what was drawn, if both are there and whole."""
    question, mark, rest = said.partition(ANSWER)
    answer, end, _ = rest.partition("\n")
    question, answer = question.strip(), answer.strip()
    return (question, answer) if mark and end and question.endswith("?") and "\n" not in question and answer else None
