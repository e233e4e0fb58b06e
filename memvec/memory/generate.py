"""`generate` and `compare`: answers with documents in front of a prompt, as their vectors or as their text.

Both ways go through the one hook, so that nothing differs but what stands at the memory's place.
Letters: M vectors or tokens of the text, D width.
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
from memvec.identity.runtime import Opening, Runtime, runtime_of
from memvec.lm.frozen import FrozenLM
from memvec.lm.numerics import declared_numerics, sampling
from memvec.lm.scoring import embedded
from memvec.memory.memory import load
from memvec.memory.prompt import embed, pad_id, tensor
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
    """An answer; the field names are those of `--json`."""

    text: str
    using: str  # what stood for the documents
    documents: tuple[str, ...]
    positions: int  # of the whole prompt
    memory_positions: int  # of them, those that stand for the documents
    tokens: int  # new ones
    seed: int | None = None  # of what was sampled
    corrections: int = 0  # stored tokens that "decode" leaves out
    verified: bool = False  # no answer is; `cat` verifies


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to have the documents in front, and what came of it; the field names are those of `--json`."""

    name: str  # "none", "vectors" or "text"
    missing: str = ""  # why it could not be had; then nothing else is there
    text: str | None = None
    positions: int | None = None
    memory_positions: int | None = None
    seconds_to_first_token: float | None = None  # after one warm-up [s]
    nats_per_token: float | None = None  # surprisal of the answer that was given


@dataclass(frozen=True, slots=True)
class _Choice:
    """How tokens are chosen."""

    new_tokens: int | None
    sample: bool
    temperature: float | None
    seed: int | None

    def check(self) -> None:
        """UsageError for values that do not go together."""
        if not self.sample and (self.temperature is not None or self.seed is not None):
            raise UsageError("temperature and seed are for sampling. Pass sample=True, or leave them out.")


@checked(using=literal(Using), template=literal(Template))
def generate(
    store: str | Path | Store | Runtime,
    prompt: str | Messages | None,
    documents: Sequence[str] | str,
    *,
    using: Using = "vectors",
    max_new_tokens: int | None = None,
    sample: bool = False,
    temperature: float | None = None,
    seed: int | None = None,
    template: Template = "auto",
    **opening: Unpack[Opening],
) -> Generated:
    """Answer `prompt` with documents of a store in front, by their context vectors or their verified text.

    `using` "decode" takes no prompt: it gives what the exact vectors alone say, greedy and without corrections, to look at;
    `cat` gives what was packed. `max_new_tokens`: 64 by default, for "decode" the whole document. Raises NotFoundError,
    FingerprintError, UsageError; ConditioningError without context vectors, NoContentError without the text.
    """
    names = _names(documents)
    choice = _Choice(max_new_tokens, sample, temperature, seed)
    choice.check()
    runtime = runtime_of(store, **opening)
    if using == "decode":
        if prompt is not None or sample:
            raise UsageError(
                "decoding takes no prompt and no sampling. Leave them out, or pass using='vectors' or using='text'."
            )
        made = draft(runtime, names, max_new_tokens)
        return Generated(made.text, using, names, made.vectors, made.vectors, made.tokens, corrections=made.corrections)
    asked = one_prompt(prompt)
    front = FRONTS[using](runtime, names)
    answer = _Asker(runtime, asked, template, choice).answer(front)
    return Generated(using=using, documents=names, **answer)


@checked(template=literal(Template))
def compare(
    store: str | Path | Store | Runtime,
    prompt: str | Messages,
    documents: Sequence[str] | str,
    *,
    answer: str | None = None,
    max_new_tokens: int | None = None,
    sample: bool = False,
    temperature: float | None = None,
    seed: int | None = None,
    template: Template = "auto",
    **opening: Unpack[Opening],
) -> tuple[Arm, ...]:
    """The same prompt with nothing, the vectors and the text in front. What cannot be had says why. As `generate`.

    `answer`: its surprisal is measured in each; without a chat template it stands directly behind the prompt, so begin it
    with a space where one belongs.
    """
    names = _names(documents)
    choice = _Choice(max_new_tokens, sample, temperature, seed)
    choice.check()
    if answer == "":
        raise UsageError("the answer is empty, expected words to measure. Leave it out.")
    runtime = runtime_of(store, **opening)
    asker = _Asker(runtime, one_prompt(prompt), template, choice)
    arms = [asker.arm("none", None, answer)]
    for name, make in FRONTS.items():
        try:
            arms.append(asker.arm(name, make(runtime, names), answer))
        except (ConditioningError, NoContentError, _NoRoom, _NoText) as error:
            arms.append(Arm(name, missing=str(error)))
    return tuple(arms)


class _NoRoom(UsageError):
    """A prompt longer than the model's context."""


class _NoText(UsageError):
    """A document that is no text."""


class _Asker:
    """One prompt, asked with different things in front of it."""

    def __init__(self, runtime: Runtime, prompt: str | Messages, template: Template, choice: _Choice) -> None:
        self.runtime, self.prompt, self.template, self.choice = runtime, prompt, template, choice
        self.lm: FrozenLM = runtime.lm

    def answer(self, front: Tensor | None) -> dict[str, Any]:
        """The fields of a `Generated` that depend on the model, with `front` (M, D) at the memory's place."""
        kwargs, positions = self._prompt(front, self.choice.new_tokens or NEW_TOKENS)
        self.runtime.notify("generating")
        how: dict[str, Any] = {"do_sample": self.choice.sample}
        if self.choice.sample:
            how["temperature"] = 1.0 if self.choice.temperature is None else self.choice.temperature
        chance = sampling(self.lm.device, self.choice.seed) if self.choice.sample else nullcontext()
        with chance as seed, declared_numerics(self.lm.device):
            out = self.lm.model.generate(**kwargs, **how)
        new = out[0, kwargs["input_ids"].shape[1] :].tolist()
        return {
            "text": self.lm.tokenizer.decode(new, skip_special_tokens=True),
            "positions": positions,
            "memory_positions": 0 if front is None else len(front),
            "tokens": len(new),
            "seed": seed,
        }

    def arm(self, name: str, front: Tensor | None, answer: str | None) -> Arm:
        """What the prompt gives with `front`, how soon, and how surprising it finds `answer`."""
        made = self.answer(front)
        kwargs, _ = self._prompt(front, 1)
        with declared_numerics(self.lm.device):
            for _ in range(2):  # the first warms up
                begun = time.perf_counter()
                self.lm.model.generate(**kwargs, do_sample=False)[0, -1].item()  # read back: the device has finished
                seconds = time.perf_counter() - begun
            nats = None if answer is None else self._surprisal(front, self.lm.encode(answer))
        return Arm(
            name=name,
            text=made["text"],
            positions=made["positions"],
            memory_positions=made["memory_positions"],
            seconds_to_first_token=round(seconds, 6),
            nats_per_token=nats,
        )

    def _prompt(self, front: Tensor | None, new: int) -> tuple[dict[str, Any], int]:
        """Arguments for `model.generate`, and the positions of the prompt. UsageError when the model has no room."""
        made = embed(self.lm.model, [(self._frame(front), front)], pad_id(self.lm.tokenizer))
        positions = made.inputs_embeds.shape[1]
        room = getattr(self.lm.model.config, "max_position_embeddings", None)
        if room is not None and positions + new > room:
            raise _NoRoom(
                f"the prompt takes {positions} positions and the answer up to {new}, the model has {room}. "
                "Put fewer documents in front, or use their vectors."
            )
        return {**made.generate_kwargs(), "pad_token_id": pad_id(self.lm.tokenizer), "max_new_tokens": new}, positions

    def _frame(self, front: Tensor | None) -> Frame:
        return frame(self.lm.tokenizer, self.prompt, self.template, front is not None)

    @torch.inference_mode()
    def _surprisal(self, front: Tensor | None, ids: Sequence[int]) -> float:
        """Mean surprisal of tokens behind the prompt, the true ones fed back in [nats per token]."""
        row = self._frame(front)
        made = embed(self.lm.model, [(Frame(row.before, (*row.after, *ids)), front)])
        logits = self.lm.model(inputs_embeds=made.inputs_embeds, logits_to_keep=len(ids) + 1).logits[0, :-1]
        target = torch.tensor(list(ids), device=logits.device)
        return float(torch.nn.functional.cross_entropy(logits.float(), target))


def _vectors(runtime: Runtime, names: Sequence[str]) -> Tensor:
    return tensor(load(runtime, names))


def _text(runtime: Runtime, names: Sequence[str]) -> Tensor:
    """The embedded tokens of the documents' text, with a blank line between them. NoContentError, UsageError."""
    texts = []
    for name in names:
        try:
            texts.append(content(runtime, name).decode())
        except UnicodeDecodeError as error:
            raise _NoText(
                f"{name!r} is no UTF-8 text and cannot stand in a prompt. `memvec cat` gives its bytes."
            ) from error
    lm = runtime.lm
    return embedded(lm, lm.encode(SEPARATOR.join(texts)))


FRONTS: dict[str, Callable[[Runtime, Sequence[str]], Tensor]] = {"vectors": _vectors, "text": _text}


def _names(documents: Sequence[str] | str) -> tuple[str, ...]:
    names = (documents,) if isinstance(documents, str) else tuple(documents)
    if not names:
        raise UsageError("no documents are named, expected at least one. `memvec list` shows the names.")
    return names
