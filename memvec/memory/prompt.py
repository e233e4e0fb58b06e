"""Make prompts with memories in front of them. All other ways to use a memory call `embed`.

A row is [before, memory, after]. `before` holds BOS and the chat template up to the user's first words. `after` holds a blank
line, the question and the rest of the template. Rows are padded on the left. Vectors take the place of the output of the
model's embedding module, after any scaling it does, so they are passed as `inputs_embeds`. Keys and values go into a cache,
with `before` in front of them; the embeddings of those positions are zeros that `generate` leaves out.

Letters: B rows, P positions of the longest row, H of them in a cache, T prompt tokens of the longest, M positions of a
memory, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from memvec.errors import UsageError, counted
from memvec.identity.fingerprint import check_model
from memvec.kv.fronts import FrontCache
from memvec.kv.place import check_attention, placed, plain_windows
from memvec.kv.selection import Selection
from memvec.lm import compat
from memvec.lm.adapters import unwrapped
from memvec.lm.device import device_of
from memvec.lm.scoring import Prefixes
from memvec.memory import options
from memvec.memory.dispatch import READY, install, mark
from memvec.memory.prompt_input import as_prompts
from memvec.templates.template import Frame, Messages, Template, frame
from memvec.types import Identity, Record, Vectors

Prompts = str | Messages | Sequence[str] | Sequence[Messages]
PROMPT_ARGUMENTS = ("input_ids", "inputs_embeds", "attention_mask")


class HasVectors(Protocol):
    """Anything that can be put in front of a prompt, such as `memvec.Memory`."""

    @property
    def vectors(self) -> Vectors:
        """(M, D) float16, in order. (0, D) for keys and values, which `kv` then has."""

    @property
    def identity(self) -> Identity:
        """The model the vectors belong to."""

    @property
    def documents(self) -> tuple[str, ...]:
        """Names of the documents in the memory."""


Memories = HasVectors | None | Sequence[HasVectors | None]


@dataclass(frozen=True, slots=True)
class Embedded:
    """A batch of complete prompts for a model, padded on the left."""

    input_ids: Tensor  # (B, T) the prompts' own tokens, without the memory, for logits processors and the output
    inputs_embeds: Tensor  # (B, P, D) in the model's dtype
    attention_mask: Tensor  # (B, P)
    pad: int = 0  # id of the padding token
    owners: Owners | None = None  # the models the memories belong to; None if the caller wants no check
    cached: Prefixes | None = None  # the first H positions of each row as a cache, if a memory is keys and values
    cache_name: str = compat.CACHE_NAMES[0]  # the model's name for a cache

    @property
    def position_ids(self) -> Tensor:
        """(B, P) positions, from 0 at the first token of each row; 0 for padding."""
        return (self.attention_mask.cumsum(1) - 1).clamp(min=0)

    def generate_kwargs(self) -> dict[str, Any]:
        """Return arguments for `model.generate`. Its output begins with `input_ids`. They can be used many times."""
        carrier = Prompt(self.pad, self.owners, self.cached)
        return {
            "input_ids": self.input_ids,
            "inputs_embeds": mark(self.inputs_embeds, carrier),
            "attention_mask": self.attention_mask,
            # The carrier has the cache. It is here for callers that change the embeddings, which loses their mark.
            **({self.cache_name: mark(compat.repeated(self.cached.cache), carrier)} if self.cached else {}),
        }

    def forward_kwargs(self) -> dict[str, Any]:
        """Return arguments for one forward pass of the model over the rows, or over what is behind their cache."""
        held = self.cached.held.shape[1] if self.cached else 0
        cache = {self.cache_name: compat.repeated(self.cached.cache)} if self.cached else {}
        return {
            "inputs_embeds": self.inputs_embeds[:, held:],
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids[:, held:],
            **cache,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Owners:
    """The models that memories belong to. They are compared with a loaded model as it is in memory at that moment."""

    tokenizer: Any
    identities: tuple[Identity, ...]
    allow_adapters: bool

    @classmethod
    def of(cls, tokenizer: Any, memories: Sequence[HasVectors | None], allow_adapters: bool) -> Owners:
        """The models of some memories."""
        different = {id(memory): memory.identity for memory in memories if memory is not None}
        return cls(tokenizer, tuple(different.values()), allow_adapters)

    def __deepcopy__(self, memo: Any) -> Owners:
        """Return itself, because it refers to the tokenizer."""
        return self

    def check(self, model: Any) -> None:
        """Raise FingerprintError if the model is another one or has active adapters."""
        for identity in self.identities:
            check_model(model, self.tokenizer, identity, allow_adapters=self.allow_adapters)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A carrier for the embedded prompts of `generate_kwargs`."""

    pad: int
    owners: Owners | None
    cached: Prefixes | None = None

    def __deepcopy__(self, memo: Any) -> Prompt:
        """Return itself: nothing changes it."""
        return self

    def arguments(self, model: Any, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments of the call, checked, with lengths counted in new tokens. FingerprintError, UsageError."""
        if self.owners is not None:
            self.owners.check(model)  # the call may be to another model, or the model may have changed
        own = PROMPT_ARGUMENTS if self.cached is None else (*PROMPT_ARGUMENTS, *compat.CACHE_NAMES)
        asked = {name: value for name, value in given.items() if name not in own}
        options.check(model, asked)
        prompt = {name: given[name] for name in PROMPT_ARGUMENTS if given.get(name) is not None}
        ids, embeds = prompt.get("input_ids"), prompt["inputs_embeds"]
        if self.cached is not None:
            self._check_shapes(embeds, prompt.get("attention_mask"))
        length = 0 if ids is None else ids.shape[1]  # without ids, the output holds only new tokens
        ready = {"inputs_embeds": mark(embeds.view_as(embeds), READY)}
        cache = {} if self.cached is None else behind(model, asked, self.cached.cache)
        return {**options.settle(model, asked, length, self.pad), **prompt, **ready, **cache}

    def _check_shapes(self, embeds: Tensor, mask: Tensor | None) -> None:
        """Refuse embeddings or a mask that do not go with the cache. transformers would misread them. UsageError."""
        assert self.cached is not None
        rows, held = self.cached.held.shape
        shape, of_mask = tuple(embeds.shape[:2]), None if mask is None else tuple(mask.shape)
        if shape != of_mask or shape[0] != rows or shape[1] <= held:
            raise UsageError(
                f"the embeddings are {shape} and the mask is {of_mask}, expected both ({rows}, {held} and more) as "
                "generate_kwargs made them, because the cache has the first positions. Pass its arguments unchanged."
            )


def behind(model: Any, given: dict[str, Any], cache: Any) -> dict[str, Any]:
    """The argument for a copy of a cache, with a row for each beam and each sample. UsageError for options against it."""
    options.check_cache(model, given, cache)
    if isinstance(cache, FrontCache):
        check_attention(model)  # another one may have been chosen since
    counts = (options.resolve(model, given, option) or 1 for option in ("num_beams", "num_return_sequences"))
    made = {compat.cache_argument(model): compat.repeated(cache, max(counts))}
    if options.resolve(model, {}, "cache_implementation") is None:
        return made
    return {**made, "cache_implementation": None}  # Gemma's checkpoints ask for one, and transformers takes no two


@torch.no_grad()
def embed(
    model: Any, rows: Sequence[tuple[Frame, Tensor | Selection | None]], pad: int = 0, cached: Prefixes | None = None
) -> Embedded:
    """Embed rows of (frame, memory or None), of any lengths, as one left-padded batch.

    A memory is vectors (M, D) or rows of keys and values. Those are put into a cache, or are in the cache `cached` already,
    one row for all.

    Raises:
        UsageError: The attention of the model does not take the keys and values, or its windows would count padding. Or a
            token has no embedding.
    """
    model = unwrapped(model)
    install(model)
    module = model.get_input_embeddings()
    device, dtype = device_of(module), model.dtype
    ids = [list(row.before) + list(row.after) for row, _ in rows]
    if beyond := [i for own in ids for i in own if i >= len(module.weight)]:
        raise UsageError(
            f"the prompt holds a token with the id {beyond[0]}, and the model has embeddings for {len(module.weight)} tokens. "
            "Leave its word out of the prompt, or resize the model's embeddings."
        )
    cached = cached_rows(model, rows) if cached is None else every(cached, len(rows))
    pieces = []
    for row, memory in rows:
        before, after = (
            module(torch.tensor(part, dtype=torch.long, device=device)) for part in (row.before, row.after)
        )
        middle = [memory.to(device, dtype)] if isinstance(memory, Tensor) else []
        pieces.append(torch.cat([*([] if isinstance(memory, Selection) else [before]), *middle, after]).to(dtype))
    held = 0 if cached is None else cached.held.shape[1]  # H
    width, length = pieces[0].shape[1], held + max(map(len, pieces))
    embeds = torch.zeros(len(rows), length, width, dtype=dtype, device=device)
    mask = torch.zeros(len(rows), length, dtype=torch.long, device=device)
    tokens = torch.full((len(rows), max(map(len, ids))), pad, dtype=torch.long, device=device)
    for i, (piece, own) in enumerate(zip(pieces, ids, strict=True)):
        embeds[i, length - len(piece) :] = piece
        mask[i, length - len(piece) :] = 1
        tokens[i, tokens.shape[1] - len(own) :] = torch.tensor(own, dtype=torch.long, device=device)
    if cached is not None:
        mask[:, :held] = cached.held
        if len({len(piece) for piece in pieces}) > 1 and plain_windows(model, cached):
            raise UsageError(
                "the model has sliding windows, which count the padding behind keys and values with this attention "
                f"({model.config._attn_implementation}). Pass prompts of one length, or load the model with "
                "attn_implementation='sdpa'."
            )
    return Embedded(tokens, embeds, mask, pad, None, cached, compat.cache_argument(model))


def cached_rows(model: Any, rows: Sequence[tuple[Frame, Any]]) -> Prefixes | None:
    """The cache of the keys and values in rows of (frame, memory), and of the tokens before them. None without any."""
    found: dict[tuple[Any, ...], tuple[Selection | None, tuple[int, ...]]] = {}
    owner = []
    for row, memory in rows:
        own = (memory, row.before) if isinstance(memory, Selection) else (None, ())
        key = (id(own[0]), own[1])
        found.setdefault(key, own)
        owner.append(list(found).index(key))
    if all(memory is None for memory, _ in found.values()):
        return None
    memories, before = zip(*found.values(), strict=True)
    return every(placed(model, memories, before), owner)


def every(cached: Prefixes, owner: Sequence[int] | int) -> Prefixes:
    """The rows `owner` of caches, or so many times the only row."""
    owner = [0] * owner if isinstance(owner, int) else owner
    if owner == list(range(len(cached.held))):
        return cached
    index = torch.tensor(owner, device=cached.held.device)
    return Prefixes(compat.branched(cached.cache, index), cached.held[index])


def as_memories(memories: Any) -> list[HasVectors | None]:
    """Make a list of one memory, None, or an iterable of both. UsageError for anything else."""
    if memories is None or is_memory(memories):
        return [memories]
    many = (
        isinstance(memories, Iterable)
        and not isinstance(memories, str | bytes | Mapping)
        and not hasattr(memories, "dtype")
    )
    found = list(memories) if many else [memories]
    wrong = next((item for item in found if item is not None and not is_memory(item)), None)
    if wrong is not None:
        raise UsageError(
            f"found a {type(wrong).__name__} in place of a memory, expected a Memory from memvec.load_memory, None, or a "
            "list of these."
        )
    return found


def is_memory(value: Any) -> bool:
    """Does it have vectors and an identity? The class is asked, because reading `vectors` would join them."""
    return all(hasattr(type(value), name) for name in ("vectors", "identity"))


def prompts_with(
    model: Any,
    tokenizer: Any,
    prompts: Prompts,
    memories: Memories,
    template: Template = "auto",
    check: bool = True,
    *,
    allow_adapters: bool = False,
) -> Embedded:
    """Put a memory in front of each prompt, or one in front of all, as one batch.

    Args:
        model: A transformers model, also inside PEFT, torch.compile or DataParallel.
        tokenizer: Its tokenizer.
        prompts: Text or chat messages, one prompt or several.
        memories: One memory for all, None for none, or one (or None) for each prompt.
        template: "chat", "text", or "auto" for a chat where the tokenizer has a template.
        check: Compare the model, as it is in memory, with the one the memories belong to.
        allow_adapters: Accept a model with active adapters, such as a LoRA. The weights below them are still compared.

    Raises:
        FingerprintError: The model is another one, or has active adapters.
        UsageError: The number of memories differs, a prompt is invalid, or the template has no place for a memory.
    """
    texts = as_prompts(prompts)
    given = as_memories(memories)
    if memories is None or is_memory(memories):
        given *= len(texts)
    if len(given) != len(texts):
        found = f"{counted(len(given), 'memory', 'memories')} for {counted(len(texts), 'prompt')}"
        raise UsageError(f"{found}. Pass one, or one for each.")
    owners = Owners.of(tokenizer, given, allow_adapters) if check else None
    if owners is not None:
        owners.check(model)
    fronts = {id(memory): front_of(memory) for memory in given}
    rows = [
        (frame(tokenizer, text, template, memory is not None), fronts[id(memory)])
        for text, memory in zip(texts, given, strict=True)
    ]
    return replace(embed(model, rows, pad_id(tokenizer)), owners=owners)


def generate_kwargs(
    model: Any, tokenizer: Any, prompts: Prompts, memories: Memories, template: Template = "auto", **options: Any
) -> dict[str, Any]:
    """Return arguments for `model.generate`. Its output is the prompts' ids and the new ones. As `prompts_with`."""
    return prompts_with(model, tokenizer, prompts, memories, template, **options).generate_kwargs()


def front_of(memory: HasVectors | None) -> Tensor | Selection | None:
    """What a memory puts in front of a prompt: its vectors (M, D) or its keys and values."""
    kv = getattr(memory, "kv", None)
    if kv:
        documents = [Selection.behind([Selection.of(p.stored, p.tokens) for p in document]) for document in kv]
        if getattr(memory, "ranked", False) and len(documents) > 1:
            return Selection.behind([Selection.joined(documents[:-1]), documents[-1]])
        return Selection.joined(documents)
    return None if memory is None else tensor(memory)


def tensor(memory: HasVectors | Record) -> Tensor:
    """The vectors (M, D) of a memory or a record as a float32 tensor. UsageError for keys and values."""
    refuse_kv(memory)
    return torch.from_numpy(memory.vectors.astype("float32"))


def refuse_kv(memory: Any) -> None:
    """Raise UsageError for a memory of keys and values."""
    if getattr(memory, "kv", None):
        raise UsageError(
            "this memory is keys and values, expected vectors. Load context vectors: memvec.load_memory(…, kind='context')."
        )


def pad_id(tokenizer: Any) -> int:
    """The id for padding: the padding token, else the end token, else 0. Padding is masked, so any id works."""
    for name in ("pad_token_id", "eos_token_id"):
        value = getattr(tokenizer, name, None)
        if value is not None:
            return int(value)
    return 0
