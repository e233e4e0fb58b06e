"""Ask one prompt in each of the four ways to attach a memory, and ask the same of the text itself."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, pipeline

from memvec.integrations.transformers_pipeline import TASK
from memvec.memory.attach import attached
from memvec.memory.memory import Memory
from memvec.templates.template import frame

TEXT = "It is a truth universally acknowledged, that a single man"
QUESTION = "The feelings or views of such a man may be on"
WAYS = ("generate_kwargs", "attached", "pipeline", "as_cache")
NEW = 12
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": NEW}


def prompt_ids(tokenizer: Any) -> torch.Tensor:
    return torch.tensor([[tokenizer.bos_token_id, *tokenizer(QUESTION)["input_ids"]]])


def say(way: str, model: Any, tokenizer: Any, memory: Memory, /, config: Any = None, **options: Any) -> list[list[int]]:
    """The new tokens of one prompt, by one of the ways."""
    torch.manual_seed(0)
    tokenizer.pad_token = tokenizer.bos_token
    if config is not None:
        options["generation_config"] = config
    if way == "pipeline":
        pipe = pipeline(TASK, model=model, tokenizer=tokenizer)
        pipe.generation_config = GenerationConfig()  # or its own default of 256 new tokens stands before all else
        made = pipe(QUESTION, memory=memory, return_tensors=True, **options)
        width = len(prompt_ids(tokenizer)[0])
        return [one["generated_token_ids"][width:] for one in made]
    if way == "attached":
        ids = prompt_ids(tokenizer)
        with attached(model, tokenizer, memory):
            out = model.generate(ids, **options)
        return sequences(out)[:, ids.shape[1] :].tolist()
    source = memory if way == "generate_kwargs" else memory.as_cache(model, tokenizer)
    kwargs = (
        memory.generate_kwargs(model, tokenizer, QUESTION)
        if way == "generate_kwargs"
        else source.generate_kwargs(QUESTION)
    )
    out = model.generate(**kwargs, **options)
    return sequences(out)[:, kwargs["input_ids"].shape[1] :].tolist()


def sequences(out: Any) -> torch.Tensor:
    found: torch.Tensor = out if isinstance(out, torch.Tensor) else out.sequences
    return found


def plain(model: Any, tokenizer: Any, **options: Any) -> list[list[int]]:
    """The new tokens behind the ids of the text, by transformers alone."""
    torch.manual_seed(0)
    row = frame(tokenizer, QUESTION)
    ids = torch.tensor([[*row.before, *tokenizer(TEXT)["input_ids"], *row.after]])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **{"pad_token_id": 0, **options})
    return sequences(out)[:, ids.shape[1] :].tolist()


def own(model: Any, tokenizer: Any, process: Any, new: int = NEW) -> list[list[int]]:
    """Greedy tokens behind the text, logits changed by `process` of the prompt's ids and the new ones alone."""
    row = frame(tokenizer, QUESTION)
    seen = [*row.before, *row.after]
    whole = [*row.before, *tokenizer(TEXT)["input_ids"], *row.after]
    said: list[int] = []
    with torch.inference_mode():
        for _ in range(new):
            logits = model(input_ids=torch.tensor([whole + said])).logits[:, -1]
            said.append(int(process(torch.tensor([seen + said]), logits).argmax()))
    return [said]


class Stop(StoppingCriteria):  # type: ignore[misc]
    """Stop after a number of ids."""

    def __init__(self, most: int) -> None:
        self.most = most

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        return torch.tensor([input_ids.shape[1] >= self.most] * len(input_ids))
