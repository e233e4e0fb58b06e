"""`generate` and `compare`: answer a prompt with documents in front of it, as their memory or as their text.

The prompt is made in the same way for both, so only the place of the memory differs.
Letters: M positions of a memory or tokens of the text, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from memvec.arguments import checked, literal
from memvec.decoding.unpack import content
from memvec.errors import ConditioningError, NoContentError, UsageError
from memvec.filesystem.names import several
from memvec.identity.runtime import Opening, Runtime, runtime_of
from memvec.kv.selection import Selection
from memvec.lm.frozen import FrozenLM
from memvec.lm.numerics import declared_numerics, sampling
from memvec.lm.scoring import embedded
from memvec.memory.memory import load
from memvec.memory.prompt import embed, front_of, pad_id
from memvec.memory.prompt_input import one_prompt
from memvec.memory.unverified import draft
from memvec.store.store import Store
from memvec.templates.template import SEPARATOR, Frame, Messages, Template, frame

if TYPE_CHECKING:
    from typing_extensions import Unpack

Using = Literal["vectors", "text", "decode"]
NEW_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer. The JSON output has the same fields."""

    text: str
    using: str  # "vectors", "text" or "decode"
    documents: tuple[str, ...]
    positions: int  # context positions of the complete prompt
    memory_positions: int  # of these, positions of the documents
    tokens: int  # new tokens
    seed: int | None = None  # if tokens were sampled
    corrections: int = 0  # stored tokens that "decode" does not use
    verified: bool = False  # always; only `cat`, `read` and `unpack` verify
    kind: str | None = None  # of the memory in front: "context" or "kv"


@dataclass(frozen=True, slots=True)
class Arm:
    """The answer with nothing, the memory or the text in front. The JSON output has the same fields."""

    name: str  # "none", "vectors" or "text"
    missing: str = ""  # the reason if there is no answer; then the other fields are empty
    text: str | None = None
    positions: int | None = None
    memory_positions: int | None = None
    seconds_to_first_token: float | None = None  # after a warm-up
    nats_per_token: float | None = None  # mean surprisal of the `answer` that was passed
    kind: str | None = None  # of the memory in front: "context" or "kv"


@dataclass(frozen=True, slots=True)
class _Choice:
    """The options for choosing new tokens."""

    new_tokens: int | None
    sample: bool
    temperature: float | None
    seed: int | None

    def check(self) -> None:
        """Raise UsageError if values contradict each other."""
        if not self.sample and (self.temperature is not None or self.seed is not None):
            raise UsageError("temperature and seed need sampling. Pass sample=True, or leave them out.")


@checked(using=literal(Using), template=literal(Template))
def generate(
    store: str | Path | Store | Runtime,
    prompt: str | Messages | None,
    documents: Sequence[str] | str,
    *,
    ranked: bool = False,
    using: Using = "vectors",
    max_new_tokens: int | None = None,
    sample: bool = False,
    temperature: float | None = None,
    seed: int | None = None,
    template: Template = "auto",
    **opening: Unpack[Opening],
) -> Generated:
    """Answer a prompt with documents of a store in front of it.

    Args:
        store: The store, or what `memvec.open` returns.
        prompt: A text, or the messages of a chat. None for `using` "decode".
        documents: Names of the documents, in the order of the prompt.
        ranked: The names are in the order of a search, the best match first. Then the best match stands next to the prompt.
        using: "vectors" puts the memories of the documents in front: keys and values if all documents have them, else
            context vectors. "text" puts their verified text in front. "decode" shows the text that the exact vectors give
            without corrections. It takes no prompt and is not verified; `cat` is.
        max_new_tokens: By default 64; for "decode" the complete document.
        sample: Sample the tokens instead of taking the likeliest one.
        temperature: With `sample`: values below 1 make likely tokens more likely. By default 1.
        seed: With `sample`: the same seed gives the same answer.
        template: "chat", "text", or "auto" for a chat if the model has a chat template.
        **opening: As in `memvec.open`: model, device, batch, watch.

    Returns:
        The answer, and the context positions it took.

    Raises:
        NotFoundError: There is no such store, document or model.
        FingerprintError: The model is not the one that packed.
        ConditioningError: A document has no memory.
        NoContentError: A document has no text.
        UsageError: The arguments contradict each other, or the prompt is longer than the model's context.

    Example:
        >>> made = memvec.generate(store, "When does the ferry leave?", "harbour.txt", max_new_tokens=4, model=model)
        >>> made.documents, made.tokens <= 4
        (('harbour.txt',), True)
    """
    names = _names(documents)
    choice = _Choice(max_new_tokens, sample, temperature, seed)
    choice.check()
    runtime = runtime_of(store, **opening)
    if using == "decode":
        if prompt is not None or sample:
            raise UsageError(
                "using='decode' takes no prompt and does not sample. Leave both out, or pass using='vectors' or 'text'."
            )
        made = draft(runtime, names, max_new_tokens)
        return Generated(made.text, using, names, made.vectors, made.vectors, made.tokens, corrections=made.corrections)
    asked = one_prompt(prompt)
    front = FRONTS[using](runtime, names, ranked)
    answer = _Asker(runtime, asked, template, choice).answer(front)
    return Generated(using=using, documents=names, **answer)


@checked(template=literal(Template))
def compare(
    store: str | Path | Store | Runtime,
    prompt: str | Messages,
    documents: Sequence[str] | str,
    *,
    ranked: bool = False,
    answer: str | None = None,
    max_new_tokens: int | None = None,
    sample: bool = False,
    temperature: float | None = None,
    seed: int | None = None,
    template: Template = "auto",
    **opening: Unpack[Opening],
) -> tuple[Arm, ...]:
    """Answer a prompt three times: with nothing, the memory and the text of documents in front.

    Args:
        store: The store, or what `memvec.open` returns.
        prompt: A text, or the messages of a chat.
        documents: Names of the documents, in the order of the prompt.
        ranked: As in `generate`.
        answer: A text whose surprisal is measured in each case. Without a chat template it follows the prompt directly, so
            it should begin with a space.
        max_new_tokens: By default 64.
        sample: Sample the tokens instead of taking the likeliest one.
        temperature: With `sample`: values below 1 make likely tokens more likely. By default 1.
        seed: With `sample`: the same seed gives the same answer.
        template: "chat", "text", or "auto" for a chat if the model has a chat template.
        **opening: As in `memvec.open`: model, device, batch, watch.

    Returns:
        The answers with "none", "vectors" (the memory, of any kind) and "text" in front, with their costs. An answer may be
        missing, with the reason.

    Raises:
        NotFoundError: There is no such store, document or model.
        FingerprintError: The model is not the one that packed.
        UsageError: The arguments contradict each other.

    Example:
        >>> arms = memvec.compare(store, "When does the ferry leave?", "harbour.txt", max_new_tokens=2, model=model)
        >>> [arm.name for arm in arms]
        ['none', 'vectors', 'text']
    """
    names = _names(documents)
    choice = _Choice(max_new_tokens, sample, temperature, seed)
    choice.check()
    if answer == "":
        raise UsageError("answer is empty, expected a text to measure. Leave it out.")
    runtime = runtime_of(store, **opening)
    asker = _Asker(runtime, one_prompt(prompt), template, choice)
    arms = [asker.arm("none", _Front(), answer)]
    for name, make in FRONTS.items():
        try:
            arms.append(asker.arm(name, make(runtime, names, ranked), answer))
        except (ConditioningError, NoContentError, _NoRoom, _NoText) as error:
            arms.append(Arm(name, missing=str(error)))
    return tuple(arms)


class _NoRoom(UsageError):
    """The prompt is longer than the model's context."""


class _NoText(UsageError):
    """A document is no text."""


class _Asker:
    """Asks the model one prompt, with different things in front of it."""

    def __init__(self, runtime: Runtime, prompt: str | Messages, template: Template, choice: _Choice) -> None:
        self.runtime, self.prompt, self.template, self.choice = runtime, prompt, template, choice
        self.lm: FrozenLM = runtime.lm

    def answer(self, front: _Front) -> dict[str, Any]:
        """Answer with `front` at the place of the memory. Returns fields of `Generated`."""
        kwargs, positions = self._prompt(front, self.choice.new_tokens or NEW_TOKENS)
        self.runtime.notify("generating")
        how: dict[str, Any] = {"do_sample": self.choice.sample}
        if self.choice.sample:
            how["temperature"] = 1.0 if self.choice.temperature is None else self.choice.temperature
        else:  # transformers warns of a checkpoint's settings of sampling
            how |= dict.fromkeys(("temperature", "top_k", "top_p", "min_p", "typical_p"))
        seeded = sampling(self.lm.device, self.choice.seed) if self.choice.sample else nullcontext()
        with seeded as seed, declared_numerics(self.lm.device):
            out = self.lm.model.generate(**kwargs, **how)
        new = out[0, kwargs["input_ids"].shape[1] :].tolist()
        return {
            "text": self.lm.tokenizer.decode(new, skip_special_tokens=True),
            "positions": positions,
            "memory_positions": front.positions,
            "tokens": len(new),
            "seed": seed,
            "kind": front.kind,
        }

    def arm(self, name: str, front: _Front, answer: str | None) -> Arm:
        """Answer with `front`, measure the time to the first token and the surprisal of `answer`."""
        made = self.answer(front)
        with declared_numerics(self.lm.device):
            for _ in range(2):  # the first warms up
                begun = time.perf_counter()
                kwargs, _ = self._prompt(front, 1)  # puts keys and values in place, too
                self.lm.model.generate(**kwargs, do_sample=False)[0, -1].item()  # waits until the device has finished
                seconds = time.perf_counter() - begun
            nats = None if answer is None else self._surprisal(front, self.lm.encode(answer))
        return Arm(
            name=name,
            text=made["text"],
            positions=made["positions"],
            memory_positions=made["memory_positions"],
            seconds_to_first_token=round(seconds, 6),
            nats_per_token=nats,
            kind=front.kind,
        )

    def _prompt(self, front: _Front, new: int) -> tuple[dict[str, Any], int]:
        """Arguments for `model.generate`, and the positions of the prompt. UsageError if the context is too short."""
        made = embed(self.lm.model, [(self._frame(front), front.content)], pad_id(self.lm.tokenizer))
        positions = made.inputs_embeds.shape[1]
        room = getattr(self.lm.model.config, "max_position_embeddings", None)
        if room is not None and positions + new > room:
            raise _NoRoom(
                f"the prompt takes {positions} positions and the answer up to {new}, the model has {room}. "
                "Put fewer documents in front, or use their memories."
            )
        return {**made.generate_kwargs(), "pad_token_id": pad_id(self.lm.tokenizer), "max_new_tokens": new}, positions

    def _frame(self, front: _Front) -> Frame:
        return frame(self.lm.tokenizer, self.prompt, self.template, front.content is not None)

    @torch.inference_mode()
    def _surprisal(self, front: _Front, ids: Sequence[int]) -> float:
        """Mean surprisal of the tokens `ids` behind the prompt [nats per token]."""
        row = self._frame(front)
        made = embed(self.lm.model, [(Frame(row.before, (*row.after, *ids)), front.content)])
        logits = self.lm.model(**made.forward_kwargs(), logits_to_keep=len(ids) + 1).logits[0, :-1]
        target = torch.tensor(list(ids), device=logits.device)
        return float(torch.nn.functional.cross_entropy(logits.float(), target))


@dataclass(frozen=True, slots=True)
class _Front:
    """What stands in front of a prompt."""

    content: Tensor | Selection | None = None  # vectors or embedded tokens (M, D), or keys and values
    kind: str | None = None  # of a memory

    @property
    def positions(self) -> int:
        """M."""
        if isinstance(self.content, Selection):
            return self.content.positions
        return 0 if self.content is None else len(self.content)


def _memory(runtime: Runtime, names: Sequence[str], ranked: bool) -> _Front:
    memory = load(runtime, names, ranked=ranked)
    return _Front(front_of(memory), "kv" if memory.kv else "context")


def _text(runtime: Runtime, names: Sequence[str], ranked: bool) -> _Front:
    """The embedded text of the documents, with a blank line between two. NoContentError, UsageError."""
    texts = []
    for name in names[:: -1 if ranked else 1]:
        try:
            texts.append(content(runtime, name).decode())
        except UnicodeDecodeError as error:
            raise _NoText(
                f"{name!r} is no UTF-8 text, so it cannot be part of a prompt. `memvec.cat(…)` gives its bytes."
            ) from error
    lm = runtime.lm
    return _Front(embedded(lm, lm.encode(SEPARATOR.join(texts))))


FRONTS: dict[str, Callable[[Runtime, Sequence[str], bool], _Front]] = {"vectors": _memory, "text": _text}


def _names(documents: Sequence[str] | str) -> tuple[str, ...]:
    names = several(documents)
    if not names:
        raise UsageError("documents is empty, expected at least one name. `memvec.documents(…)` lists the names.")
    return names
