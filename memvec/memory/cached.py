"""Run a memory through a model once, and use its keys and values for many prompts. A kv memory is only put in place.

Letters: B rows, H positions that the cache holds, T prompt tokens of the longest row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import torch

from memvec.errors import UsageError
from memvec.lm.adapters import unwrapped
from memvec.lm.compat import cache_argument, cache_bytes, cache_of, recurrent, repeated, sliding
from memvec.memory import options
from memvec.memory.dispatch import mark
from memvec.memory.prompt import (
    Embedded,
    HasVectors,
    Owners,
    Prompt,
    Prompts,
    as_memories,
    cached_rows,
    embed,
    front_of,
    pad_id,
)
from memvec.memory.prompt_input import as_prompts
from memvec.templates.template import Frame, Template, frame


class CachedMemory:
    """The keys and values of a memory and of the tokens before it. Prompts then cost only their own tokens."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        memory: HasVectors,
        template: Template = "auto",
        check: bool = True,
        *,
        allow_adapters: bool = False,
    ) -> None:
        """Run `memory` through `model`. The arguments are those of `prompt.prompts_with`.

        Raises:
            FingerprintError: The memory belongs to another model, or the model has active adapters.
            UsageError: The model has no keys and values to cache, or its attention does not take those of the memory.
        """
        self._owners = Owners.of(tokenizer, as_memories(memory) if check else [], allow_adapters)
        self.model, self.tokenizer, self.template = unwrapped(model), tokenizer, template
        if recurrent(self.model):
            raise UsageError(
                "in transformers, a state-space model cannot continue from a state with several tokens at once. "
                "Use memory.generate_kwargs, which puts the memory in front of each prompt."
            )
        self._owners.check(model)
        options.check(self.model, {})
        self.now = datetime.now()  # for templates with a date: prompts must have the date of the cache
        self.before = frame(tokenizer, "", template, True, now=self.now).before
        self.front = front_of(memory)
        start = [(Frame(self.before, ()), self.front)]
        self.placed = cached_rows(self.model, start)  # None for vectors
        self._cache: Any
        if self.placed is not None:
            self._cache, self.length = self.placed.cache, self.placed.held.shape[1]  # H
        else:
            self._cache, self.length = self._run(embed(self.model, start), memory)
        self.sliding = sliding(self._cache)

    def _run(self, start: Embedded, memory: HasVectors) -> tuple[Any, int]:
        if not start.inputs_embeds.shape[1]:
            raise UsageError(
                f"{', '.join(memory.documents) or 'the memory'} has no vectors and no tokens before it, so the cache "
                "would be empty. Use memory.generate_kwargs."
            )
        with torch.inference_mode():
            out = self.model(
                inputs_embeds=start.inputs_embeds, attention_mask=start.attention_mask, use_cache=True, logits_to_keep=1
            )
        return cache_of(out), start.inputs_embeds.shape[1]

    @property
    def bytes(self) -> int:
        """Size of the keys and values [bytes]."""
        return cache_bytes(self._cache)

    def copy(self, rows: int = 1) -> Any:
        """Return a copy of the cache for `rows` rows. `generate` adds to the copy."""
        return repeated(self._cache, rows)

    def generate_kwargs(self, prompts: Prompts) -> dict[str, Any]:
        """Return arguments for `model.generate` of the model this was made with. They can be used many times.

        Prompts of different length are padded between memory and prompt. Layers with a sliding window would count that
        padding, so a model with such layers runs the memory again for such prompts.

        Raises:
            FingerprintError: The model or the tokenizer has changed since the cache was made.
            UsageError: The prompt has other tokens before the memory than this cache, or a kv memory cannot have padding
                behind it in this model.
        """
        texts = as_prompts(prompts)
        self._owners.check(self.model)  # before its embeddings are asked for tokens that were added since
        frames = [frame(self.tokenizer, text, self.template, True, now=self.now) for text in texts]
        if any(row.before != self.before for row in frames):
            raise UsageError(
                "the tokens before the memory, such as a system message, are not the ones this cache was made with. "
                "Use memory.generate_kwargs for such prompts."
            )
        uncached = embed(self.model, [(row, self.front) for row in frames], pad_id(self.tokenizer), self.placed)
        if self.placed is not None:
            return replace(uncached, owners=self._owners).generate_kwargs()
        plain = self.sliding and len({len(row.after) for row in frames}) > 1
        carrier = _CachedPrompt(self, uncached, plain)
        made = uncached.generate_kwargs()
        carried = {**made, "inputs_embeds": mark(made["inputs_embeds"], carrier)}
        if plain:
            return carried
        # transformers reads the columns behind the cache, so the padding must be between memory and prompt.
        mask = uncached.attention_mask.clone()
        mask[:, : self.length] = 1
        for seen, row in zip(mask, frames, strict=True):
            seen[self.length : len(seen) - len(row.after)] = 0
        return {**carried, "attention_mask": mask, cache_argument(self.model): mark(self.copy(len(frames)), carrier)}


@dataclass(frozen=True, slots=True, eq=False)
class _CachedPrompt:
    """A carrier for prompts behind a cached memory."""

    cached: CachedMemory
    uncached: Embedded  # the complete prompts, with the memory
    plain: bool  # pass these, without the cache

    def __deepcopy__(self, memo: Any) -> _CachedPrompt:
        """Return itself, because it refers to the model."""
        return self

    def arguments(self, model: Any, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the call with a copy of the cache, a row for each beam. FingerprintError, UsageError."""
        if model.dtype != (of := self.cached._cache.layers[0].keys.dtype):
            raise UsageError(
                f"the cache is in {of}, the model in {model.dtype}. Make the cache again: memory.as_cache(…)."
            )
        name = cache_argument(model)
        given = {key: value for key, value in given.items() if key != name}
        made = Prompt(self.uncached.pad, self.cached._owners).arguments(model, given)
        if self.plain or options.resolve(model, given, "cache_implementation"):
            return {**made, "attention_mask": self.uncached.attention_mask}
        beams = (options.resolve(model, given, option) or 1 for option in ("num_beams", "num_return_sequences"))
        return {**made, name: self.cached.copy(len(made["input_ids"]) * max(beams))}
