"""How questions about a document are put to a model, in training and in judging alike."""

from __future__ import annotations

from typing import Any

from memvec.lm.scoring import Row
from memvec.templates.template import frame, uses_chat


def question_row(tokenizer: Any, question: str, answer: str, template: str = "text") -> Row:
    """The tokens behind a memory of a question and its answer, of which the answer counts. UsageError.

    "chat" is the user's turn and the assistant's, "text" is Question: … Answer: … for models without a template, "plain"
    the two as they stand, for a text and how it goes on.
    """
    if template == "plain":
        head, tail = frame(tokenizer, question, "text").after, answer
    elif uses_chat(tokenizer, template):
        head, tail = frame(tokenizer, question, "chat").after, answer
    else:
        head, tail = frame(tokenizer, f"Question: {question}\nAnswer:", "text").after, f" {answer}"
    return Row((*head, *tokenizer(tail, add_special_tokens=False)["input_ids"]), len(head))


def templates(tokenizer: Any) -> tuple[str, ...]:
    """The forms a model is asked in: "text" and, where there is a chat template, "chat"."""
    return ("text", "chat") if uses_chat(tokenizer, "auto") else ("text",)
