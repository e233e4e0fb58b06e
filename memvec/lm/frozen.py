"""FrozenLM: a causal language model whose weights do not change. All forward passes of fits and decoding are here.

Letters: B rows, L positions, D width, V vocabulary.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memvec import off_topic
from memvec.causes import first_line
from memvec.errors import MemvecError, UnsupportedModelError
from memvec.lm import compat, layers
from memvec.lm.fused import Fused

LATE = 0.9  # share of the layers after which hidden states are measured
MEASURED = 128  # tokens of the text that they are measured on
LEAD = "\n"  # put before every text if the tokenizer would change a space at its start


@dataclass(frozen=True, slots=True)
class Unrun:
    """Prefixes of a recurrent model, not run yet, because its cache would hold no gradient."""

    embeds: Tensor  # (S, P, D), padded on the left
    mask: Tensor  # (S, P)


class FrozenLM:
    """A frozen model and its tokenizer. No parameter ever has a gradient.

    Many threads may decode, generate and measure with one at once. A fit may change its `graphs`, `fused` and `recomputes`,
    so every pack loads its own.
    """

    def __init__(self, model: Any, tokenizer: Any, splitter: Any = None) -> None:
        """Wrap a model of transformers that is frozen and in eval mode. `load.load` makes one of a checkpoint.

        A second model of the same checkpoint shares the `splitter` of the first: Gemma's takes 300 MB.

        Raises:
            UnsupportedModelError: The model hides its embeddings or its LM head.
        """
        self.model, self.tokenizer = model, tokenizer
        self.recurrent, self.cache_name = compat.recurrent(model), compat.cache_argument(model)
        inputs, head = open_embeddings(model)
        self.table: Tensor = inputs.weight  # (V, D)
        self.dtype, self.device = self.table.dtype, self.table.device
        # A bias is one more column of the head, and hidden states get a 1 for it. So logits are one product for all models.
        self._biased = getattr(head, "bias", None) is not None and bool(head.bias.any())
        self.head: Tensor = torch.cat([head.weight, head.bias[:, None]], 1) if self._biased else head.weight  # (V, D)
        self.scale = 1.0  # logits are so many times the product with the head; `load` measures it
        self.vocabulary, self.width = self.table.shape
        # Whether special tokens are split is a setting of fast tokenizers. With a second one, no call changes the setting.
        self.splitter = copy.deepcopy(tokenizer) if splitter is None else splitter
        self._lead = _lead(self.splitter)
        _ids(self.splitter, LEAD), tokenizer(LEAD)  # a first call sets more of a tokenizer's settings
        self.may_offload = False  # was it loaded on the device "auto"?
        self.offloads = layers.offloads(model)
        self.recomputes = layers.recomputes(model.base_model)
        self.graphs = self.device.type == "cuda" and not self.recomputes  # can CUDA graphs be made of what it computes?
        self.fused = Fused(model.base_model, on=self.graphs)
        if self.offloads:
            self.recompute()

    def recompute(self) -> bool:
        """Compute activations again for the backward pass instead of storing them. Return whether this changes anything.

        A step takes half as long again, or longer on a GPU, as it has no graph. Its numbers are the same to the bit.
        """
        if self.recomputes or self.recurrent:
            return False
        layers.recompute(self.model.base_model)
        self.recomputes, self.graphs, self.fused = True, False, Fused(self.model.base_model, on=False)
        return True

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. No token is added, and text that looks like a special token is split like any other."""
        ids = _ids(self.splitter, LEAD + text if self._lead else text)
        return ids[len(self._lead) :]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids. Half a character at an end becomes U+FFFD."""
        text = _text(self.tokenizer, [*self._lead, *ids])
        return text[len(LEAD) :] if self._lead else text

    @functools.cached_property
    def cache_bytes(self) -> int:
        """Size of one position in the cache [bytes]. 0 if the model has a state of fixed size instead."""
        if self.recurrent:
            return 0
        _, cache = self.start(torch.zeros(1, 1, self.width, dtype=self.dtype, device=self.device))
        return compat.cache_bytes(cache)

    @functools.cached_property
    def anchor(self) -> Tensor:
        """The embedding (1, D) float32 of BOS, or else of EOS. (0, D) if the tokenizer has neither."""
        tokens = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        known = [token for token in tokens if token is not None][:1]
        return self.embed(torch.tensor(known, dtype=torch.long, device=self.device)).float()

    @functools.cached_property
    def magnitude(self) -> float:
        """The root mean square of a token's hidden state, late in the model. It is the unit of learning rates and starts.

        It is the median over tokens of a fixed text. The first position is left out, because it may be a hundred times as large.
        """
        text = "\n".join(passage.continuation for passage in off_topic.passages())
        room = getattr(self.model.config, "max_position_embeddings", None) or MEASURED
        ids = torch.tensor([self.encode(text)[: min(MEASURED, room - 1)]], device=self.device)
        with torch.inference_mode():
            embeds = torch.cat([self.anchor.to(self.dtype)[None], self.embed(ids)], 1)
            states = self.model.base_model(
                inputs_embeds=embeds, use_cache=False, output_hidden_states=True
            ).hidden_states
            layers = len(states) - 1
            late = states[min(round(LATE * layers), layers - 1)]  # the last one is normalised
            return float(late[0, 1:].float().square().mean(-1).sqrt().median())

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings (…, D) of ids (…)."""
        embedded: Tensor = self.model.get_input_embeddings()(ids)
        return embedded

    def hidden(self, embeds: Tensor) -> Tensor:
        """Last hidden states (B, L, D) of input embeddings (B, L, D). Padding may stand on the right, as the model is causal."""
        hidden: Tensor = self.model.base_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        return self._readable(hidden)

    def _readable(self, hidden: Tensor) -> Tensor:
        """Hidden states such that their product with `head` is logits: with a 1 for its bias, if it has one, and scaled."""
        hidden = torch.nn.functional.pad(hidden, (0, 1), value=1.0) if self._biased else hidden
        return hidden if self.scale == 1 else hidden * self.scale

    def prefill(self, embeds: Tensor, mask: Tensor) -> Any:
        """Run left-padded input embeddings (S, P, D) under a mask (S, P). Return their cache. Differentiable.

        Raises:
            UnsupportedModelError: The model keeps other things than keys and values.
        """
        if self.recurrent:
            return Unrun(embeds, mask)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = compat.empty_cache()
        where = {"attention_mask": mask, "position_ids": positions, self.cache_name: cache}
        try:
            self.model.base_model(inputs_embeds=embeds, use_cache=True, **where)
        except (IndexError, ValueError) as error:
            if isinstance(error, MemvecError):
                raise
            raise UnsupportedModelError(
                f"{self.model.config.model_type} models do not go on from keys and values alone ({first_line(error, 120)})",
                "Pack with kind='exact', which needs no cache of prompts",
            ) from error
        return cache

    def branch(self, cache: Any, owner: Tensor) -> Any:
        """A cache with the rows owner (R,) of `cache`, or an empty one. Differentiable, except for recurrent models."""
        if self.recurrent:
            return cache and compat.cache_of(
                self.model.base_model(
                    inputs_embeds=cache.embeds[owner], attention_mask=cache.mask[owner], use_cache=True
                )
            )
        return compat.branched(cache, owner)

    def hidden_behind(self, cache: Any, held: Tensor, owner: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states (R, L, D) of rows of ids (R, L) behind the prefixes that `prefill` ran. Differentiable.

        Row r continues prefix owner[r]. The masks held (S, P) and mask (R, L) are 0 at padding.
        """
        whole = torch.cat([held[owner], mask], dim=1)
        if self.recurrent:
            # Their cache has no gradient and takes single tokens only. So the prefix is run again with each row.
            embeds = self.embed(ids) if cache is None else torch.cat([cache.embeds[owner], self.embed(ids)], dim=1)
            behind: Tensor = self.model.base_model(inputs_embeds=embeds, attention_mask=whole).last_hidden_state
            return self._readable(behind[:, held.shape[1] :])
        branches = self.branch(cache, owner)
        positions = (whole.cumsum(1) - 1).clamp(min=0)[:, held.shape[1] :]
        hidden: Tensor = self.model.base_model(
            inputs_embeds=self.embed(ids),
            attention_mask=whole,
            position_ids=positions,
            use_cache=True,
            **{self.cache_name: branches},
        ).last_hidden_state
        return self._readable(hidden)

    @torch.inference_mode()
    def start(self, embeds: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """(logits of the next token (B, V), cache) after input embeddings (B, L, D). An empty `cache` may be given."""
        where = {} if cache is None else {self.cache_name: cache}
        out = self.model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1, **where)
        return out.logits[:, -1], compat.cache_of(out)

    @torch.inference_mode()
    def advance(
        self, ids: Tensor, cache: Any, mask: Tensor | None = None, place: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """(logits of the next token (B, V), cache) after more tokens: one a row (B,), or several (B, T).

        mask (B, L) is 0 at padding and includes these tokens; without one there is no padding. `place` (1, 1) is the
        position of the tokens; without it the model works it out.
        """
        ids = ids if ids.dim() == 2 else ids[:, None]
        where: dict[str, Any] = {self.cache_name: cache} | ({} if place is None else {"position_ids": place})
        if mask is not None and not self.recurrent:
            places = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            where |= {"attention_mask": mask, "position_ids": places}
        out = self.model(input_ids=ids, use_cache=True, logits_to_keep=1, **where)
        return out.logits[:, -1], compat.cache_of(out)


def open_embeddings(model: Any) -> tuple[Any, Any]:
    """Return the modules of a model's input embeddings and of its LM head. UnsupportedModelError if it hides them."""
    if model.base_model is model:
        raise UnsupportedModelError(f"{model.config.model_type} models hide the layers beneath their LM head")
    try:
        found = model.get_input_embeddings(), model.get_output_embeddings()
        if all(isinstance(getattr(module, "weight", None), Tensor) for module in found):
            return found
    except (NotImplementedError, AttributeError):  # transformers raises the first for models without such a module
        pass
    raise UnsupportedModelError(f"{model.config.model_type} models hide their embeddings or their LM head")


def _lead(tokenizer: Any) -> list[int]:
    """The ids of LEAD if the tokenizer adds or drops a space at the start of a text. Else an empty list.

    Behind a line end such tokenizers leave spaces as they are, so a segment can begin with one.
    """
    ids, lead = _ids(tokenizer, "a a"), _ids(tokenizer, LEAD)
    unchanged = all(_text(tokenizer, ids[:at]) + _text(tokenizer, ids[at:]) == "a a" for at in range(len(ids) + 1))
    if unchanged or not lead:
        return []
    behind = _ids(tokenizer, f"{LEAD} a")
    right = behind[: len(lead)] == lead and _text(tokenizer, behind) == f"{LEAD} a"
    return lead if right and _text(tokenizer, lead) == LEAD else []


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
