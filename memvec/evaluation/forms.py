"""The forms in which questions are put to a model. Training and evaluation use the same."""

from __future__ import annotations

from typing import Any

from memvec.lm.scoring import Row
from memvec.templates.template import frame, uses_chat


def question_row(tokenizer: Any, question: str, answer: str, template: str = "text") -> Row:
    """The tokens of a question and its answer behind a memory; the answer is scored. UsageError.

    "chat" makes a user's turn and an assistant's. "text" makes `Question: … Answer: …`, for models without a template.
    "plain" puts the answer directly behind the question, for a text and its continuation.
    """
    if template == "plain":
        head, tail = frame(tokenizer, question, "text").after, answer
    elif uses_chat(tokenizer, template):
        head, tail = frame(tokenizer, question, "chat").after, answer
    else:
        head, tail = frame(tokenizer, f"Question: {question}\nAnswer:", "text").after, f" {answer}"
    return Row((*head, *tokenizer(tail, add_special_tokens=False)["input_ids"]), len(head))


def templates(tokenizer: Any) -> tuple[str, ...]:
    """The forms that a model is trained on: "text" and, if it has a chat template, "chat"."""
    return ("text", "chat") if uses_chat(tokenizer, "auto") else ("text",)
