"""The generation hook: memories in front of prompts of a frozen LM. Everything else stands on `embed`.

A row is [before, memory, after]: `before` holds BOS and the chat template up to the user's first words, `after` a blank
line, the question and the rest of the template. Rows are padded on the left. Vectors are what the model's embedding
module gives (behind any scale of its own), so they go in as `inputs_embeds`.

Letters: B rows, P positions of the longest row, T prompt tokens of the longest, M vectors, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from memvec.caches import CACHE_NAMES, cache_argument, cache_of, recurrent
from memvec.errors import UsageError
from memvec.identity import check_model
from memvec.memory import Memory
from memvec.template import Frame, Messages, frame, places

Prompts = str | Messages | Sequence[str] | Sequence[Messages]
Memories = Memory | None | Sequence[Memory | None]
Template = Literal["auto", "chat", "text"]

# generate() options under which inputs_embeds are ignored or cut in the wrong place.
REFUSED = {
    "prefill_chunk_size": "it splits the prompt by its ids, which do not count the memory",
    "assistant_model": "the assistant would not see the memory",
    "prompt_lookup_num_tokens": "it looks candidates up in ids, which do not hold the memory",
}


@dataclass(frozen=True, slots=True)
class Embedded:
    """Complete prompts, ready for a model. Padded on the left."""

    input_ids: Tensor  # (B, T) the prompts' own tokens, without the memory, for logits processors and the output
    inputs_embeds: Tensor  # (B, P, D) in the model's dtype
    attention_mask: Tensor  # (B, P)

    @property
    def position_ids(self) -> Tensor:
        """(B, P) positions from 0 at each row's first token; 0 where padded."""
        return (self.attention_mask.cumsum(1) - 1).clamp(min=0)

    def generate_kwargs(self) -> dict[str, Tensor]:
        """For `model.generate`; its output begins with `input_ids`."""
        return {
            "input_ids": self.input_ids,
            "inputs_embeds": self.inputs_embeds,
            "attention_mask": self.attention_mask,
        }


def embed(model: Any, rows: Sequence[tuple[Frame, Tensor | None]], pad: int = 0) -> Embedded:
    """Rows of (frame, memory (M, D) or None) of any lengths as one left-padded batch."""
    module = model.get_input_embeddings()
    device, dtype = module.weight.device, model.dtype
    ids = [list(row.before) + list(row.after) for row, _ in rows]
    pieces = []
    for row, memory in rows:
        before, after = (
            module(torch.tensor(part, dtype=torch.long, device=device)) for part in (row.before, row.after)
        )
        middle = before[:0] if memory is None else memory.to(device, dtype)
        pieces.append(torch.cat([before, middle, after]).to(dtype))
    width, length = pieces[0].shape[1], max(map(len, pieces))
    embeds = torch.zeros(len(rows), length, width, dtype=dtype, device=device)
    mask = torch.zeros(len(rows), length, dtype=torch.long, device=device)
    tokens = torch.full((len(rows), max(map(len, ids))), pad, dtype=torch.long, device=device)
    for i, (piece, own) in enumerate(zip(pieces, ids, strict=True)):
        embeds[i, length - len(piece) :] = piece
        mask[i, length - len(piece) :] = 1
        tokens[i, tokens.shape[1] - len(own) :] = torch.tensor(own, dtype=torch.long, device=device)
    return Embedded(tokens, embeds, mask)


def prompts_with(
    model: Any, tokenizer: Any, prompts: Prompts, memories: Memories, template: Template = "auto", check: bool = True
) -> Embedded:
    """Prompts (text or chat messages) with a memory each, or one for all, as one batch. FingerprintError, UsageError.

    `check=False` skips the comparison of the model with the memory's fingerprint.
    """
    texts = _as_list(prompts)
    given = list(memories) if isinstance(memories, Sequence) else [memories] * len(texts)
    if len(given) != len(texts):
        raise UsageError(f"{len(given)} memories for {len(texts)} prompts. Pass one, or one for each.")
    for memory in {id(m): m for m in given if m is not None}.values() if check else ():
        check_model(model, tokenizer, memory.fingerprint)
    rows = [
        (frame(tokenizer, text, template, memory is not None), None if memory is None else tensor(memory))
        for text, memory in zip(texts, given, strict=True)
    ]
    return embed(model, rows, pad_id(tokenizer))


def generate_kwargs(
    model: Any, tokenizer: Any, prompts: Prompts, memories: Memories, template: Template = "auto", check: bool = True
) -> dict[str, Any]:
    """Arguments for `model.generate`, which returns the prompts' ids and then what is new. As `prompts_with`."""
    embedded = prompts_with(model, tokenizer, prompts, memories, template, check)
    return {**embedded.generate_kwargs(), "pad_token_id": pad_id(tokenizer)}


class CachedMemory:
    """A memory and what stands before it, run through the model once; prompts then cost only their own tokens."""

    def __init__(
        self, model: Any, tokenizer: Any, memory: Memory, template: Template = "auto", check: bool = True
    ) -> None:
        """Prefill `memory` on `model`. FingerprintError."""
        if check:
            check_model(model, tokenizer, memory.fingerprint)
        self.model, self.tokenizer, self.template = model, tokenizer, template
        if recurrent(model):
            raise UsageError(
                "a state-space model cannot go on from a state by several tokens at once in transformers. "
                "Use memory.generate_kwargs, which puts the memory in front of each prompt."
            )
        self.before = frame(tokenizer, "", template, True).before
        start = embed(model, [(Frame(self.before, ()), tensor(memory))])
        with torch.inference_mode():
            out = model(
                inputs_embeds=start.inputs_embeds, attention_mask=start.attention_mask, use_cache=True, logits_to_keep=1
            )
        self.length = start.inputs_embeds.shape[1]  # positions it holds
        self._cache = cache_of(out)

    @property
    def bytes(self) -> int:
        """Size of its keys and values [bytes]."""
        tensors = [t for layer in self._cache.layers for t in (layer.keys, layer.values)]
        return sum(t.numel() * t.element_size() for t in tensors)

    def copy(self, rows: int = 1) -> Any:
        """The cache for `rows` rows; generating fills the copy, not this one."""
        fresh = copy.deepcopy(self._cache)
        fresh.batch_repeat_interleave(rows)
        return fresh

    def generate_kwargs(self, prompts: Prompts) -> dict[str, Any]:
        """Arguments for `model.generate`; only for the model this was made with. UsageError for another frame."""
        texts = _as_list(prompts)
        frames = [frame(self.tokenizer, text, self.template, True) for text in texts]
        if any(row.before != self.before for row in frames):
            raise UsageError(
                "a system message or other words before the memory are not those this cache was made with. "
                "Use memory.generate_kwargs for such prompts."
            )
        rest = embed(self.model, [(Frame((), row.after), None) for row in frames], pad_id(self.tokenizer))
        held = rest.attention_mask.new_ones(len(texts), self.length)
        return {
            "input_ids": rest.input_ids,
            "attention_mask": torch.cat([held, rest.attention_mask], dim=1),
            cache_argument(self.model): self.copy(len(texts)),
            "pad_token_id": pad_id(self.tokenizer),
        }


@contextmanager
def attached(model: Any, tokenizer: Any, memories: Memories, check: bool = True) -> Iterator[Any]:
    """Within: `model.generate(input_ids, attention_mask=…)` sees `memories` in each row, one for all or one each.

    A memory goes where `generate_kwargs` puts it: at the start of the user's turn where the ids begin with that
    template, else behind BOS. Not for two threads at once. FingerprintError; UsageError for options it cannot honour.
    """
    given = list(memories) if isinstance(memories, Sequence) else [memories]
    for memory in given if check else ():
        if memory is not None:
            check_model(model, tokenizer, memory.fingerprint)
    where, pad = places(tokenizer), pad_id(tokenizer)
    original, own = model.generate, vars(model).get("generate")

    def generate(inputs: Tensor | None = None, *args: Any, input_ids: Tensor | None = None, **kwargs: Any) -> Any:
        ids = inputs if inputs is not None else input_ids
        if ids is None or any(name in kwargs for name in ("inputs_embeds", "position_ids", *CACHE_NAMES)):
            raise UsageError(
                "expected input_ids, and neither inputs_embeds, position_ids nor a cache while a memory is attached."
            )
        _refuse_options(kwargs, args[0] if args else None)
        mask = kwargs.pop("attention_mask", None)
        mask = torch.ones_like(ids) if mask is None else mask
        each = given * len(ids) if len(given) == 1 else given
        if len(each) != len(ids):
            raise UsageError(
                f"{len(each)} memories are attached, found {len(ids)} rows. Pass one, or one for each row."
            )
        rows = [
            (where.split(row[seen.bool()].tolist(), memory is not None), None if memory is None else tensor(memory))
            for row, seen, memory in zip(ids, mask, each, strict=True)
        ]
        made = embed(model, rows).generate_kwargs() | {"input_ids": ids}  # callers cut the output by their own length
        return original(*args, **{"pad_token_id": pad, **kwargs}, **made)

    model.generate = generate
    try:
        yield model
    finally:
        if own is None:
            del model.generate  # the class's own is there again
        else:
            model.generate = own


def tensor(memory: Memory) -> Tensor:
    """The vectors (M, D) as a float32 tensor."""
    return torch.from_numpy(memory.vectors.astype("float32"))


def pad_id(tokenizer: Any) -> int:
    """The id that fills rows up: the padding token, else the end token, else 0; masked, so any will do."""
    for name in ("pad_token_id", "eos_token_id"):
        value = getattr(tokenizer, name, None)
        if value is not None:
            return int(value)
    return 0


def _as_list(prompts: Prompts) -> list[str | Messages]:
    """One prompt or many as a list; a list of messages is one prompt."""
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], Mapping)):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _refuse_options(options: Mapping[str, Any], config: Any) -> None:
    """UsageError for generate() options that would silently leave the memory out."""
    config = config if config is not None else options.get("generation_config")
    for name, why in REFUSED.items():
        if (options.get(name) or getattr(config, name, None)) is not None:
            raise UsageError(f"{name} cannot be used with a memory: {why}. Leave it out.")
    if "paged" in str(options.get("cache_implementation") or getattr(config, "cache_implementation", None)):
        raise UsageError(
            "a paged cache cannot be used with a memory: it takes ids only. Leave cache_implementation out."
        )
