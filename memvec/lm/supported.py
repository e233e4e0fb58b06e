"""Which models memvec can work with: decided by what they compute, before anything is fitted to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from memvec.causes import out_of_memory, own_mistake
from memvec.checkpoints.files import load_config
from memvec.errors import UnsupportedModelError, UsageError
from memvec.guard import loading_alone

if TYPE_CHECKING:
    from memvec.lm.frozen import FrozenLM

TOKENS, HALF = 8, 4


def check_config(folder: Path) -> None:
    """UnsupportedModelError when the checkpoint in `folder` is of a kind that has no causal language model."""
    config = load_config(folder)
    with loading_alone():
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{config.model_type} models are encoder-decoders, not decoder-only")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModelError(f"{config.model_type} models are no decoder-only language models")


def open_embeddings(model: Any) -> tuple[Any, Any]:
    """The modules of a model's input embeddings and of its LM head. UnsupportedModelError where it does not show them."""
    try:
        found = model.get_input_embeddings(), model.get_output_embeddings()
        if all(isinstance(getattr(module, "weight", None), Tensor) for module in found):
            return found
    except (NotImplementedError, AttributeError):  # transformers raises the first for models without such a module
        pass
    raise UnsupportedModelError(f"{model.config.model_type} models hide their embeddings or their LM head")


@torch.inference_mode()
def check_model(lm: FrozenLM) -> None:
    """UnsupportedModelError when fitting through input embeddings and the LM head would aim at something else."""
    name = lm.model.config.model_type
    try:
        faults = [why for found, expected, why in _pairs(lm) if _far(found, expected)]
    except (ValueError, TypeError, NotImplementedError, RuntimeError, AttributeError) as error:
        if out_of_memory(error) or own_mistake(error):
            raise
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise UnsupportedModelError(f"{name} models cannot be run as memvec runs them: {reason}") from error
    if faults:
        raise UnsupportedModelError(f"{name} models {faults[0]}")


def _pairs(lm: FrozenLM) -> Iterator[tuple[Tensor, Tensor, str]]:
    """(found, expected, what is wrong when they differ)."""
    ids = torch.arange(1, TOKENS + 1, device=lm.device)[None]
    embeds = lm.embed(ids)
    hidden = lm.hidden(embeds)
    # Other later tokens, not fewer: another shape rounds otherwise, in bfloat16 by more than looking ahead would show.
    others = torch.cat([embeds[:, :HALF], embeds[:, :HALF]], 1)
    yield lm.hidden(others)[:, :HALF], hidden[:, :HALF], "are not decoder-only: they look at later tokens"
    by_embeds = lm.model(inputs_embeds=embeds).logits
    yield by_embeds, lm.model(input_ids=ids).logits, "take more from token ids than their embeddings"
    yield hidden @ lm.head.T, by_embeds, "change logits after the LM head"


def _far(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return True
    off = (found.float() - expected.float()).abs().max()
    return bool(off > 0.02 * expected.float().abs().max() + 0.1)


def tied(model: Any) -> Any:
    """The model, its head tied where its configuration says so.

    While another thread of the program loads a model, transformers ties none; after two such loads at once, for good.
    UsageError where weights are missing still.
    """
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    ties = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    if ties and head is not None and head.weight is not inputs.weight and head.weight.shape == inputs.weight.shape:
        head.weight = inputs.weight
    missing = [name for name, value in model.named_parameters() if value.is_meta]
    if missing:
        raise UsageError(
            f"{missing[0]} was not loaded, since another thread loaded a model with transformers at the same time. "
            "Load models one after another, and try again."
        )
    return model
