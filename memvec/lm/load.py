"""Load a checkpoint as a FrozenLM: check its configuration, load it, wrap it, and check by running it.

A model is supported if its input embeddings and its LM head give the logits that the model itself gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memvec.causes import enough_memory, first_line, out_of_memory, own_mistake, reading_checkpoint
from memvec.checkpoints.files import load_config, quiet
from memvec.errors import UnsupportedModelError, UsageError
from memvec.guard import loading_alone
from memvec.lm.compat import isolate, recurrent
from memvec.lm.frozen import FrozenLM

# Tokens of the run that checks a model. Half of them are changed, to look for attention to later ones.
TOKENS, HALF = 8, 4


def load(folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> FrozenLM:
    """Load the checkpoint in `folder` as `dtype` onto `device`, one thread at a time.

    Raises:
        NotFoundError: The folder cannot be read as a checkpoint.
        UnsupportedModelError: memvec cannot fit vectors to such a model.
        UsageError: Another thread loaded a model at the same time, so weights are missing.
        OutOfMemoryError: The model does not fit in memory.
    """
    kind = str(dtype).removeprefix("torch.")
    with loading_alone(), enough_memory(f"load {str(folder)!r} as {kind} onto {device}"):
        check_config(folder)
        tokenizer, model = _read(folder, dtype)
        isolate(tied(model).eval().requires_grad_(False).to(device))
        if recurrent(model):
            model.float()  # transformers' scan of states multiplies float32 with the weights in their own dtype
        lm = FrozenLM(model, tokenizer)
        check_model(lm)
        return lm


def in_float32(lm: FrozenLM, folder: Path) -> FrozenLM:
    """Return `lm` if it is in float32, else load `folder` again in float32. Certifying needs float32."""
    return lm if lm.dtype == torch.float32 else load(folder, torch.float32, str(lm.device))


def _read(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """(tokenizer, model) of a checkpoint, as transformers loads them. NotFoundError."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from memvec.lm import attention  # imports transformers

    with quiet(), reading_checkpoint(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention.register(),
            trust_remote_code=False,
            use_safetensors=True,
        )
    return tokenizer, model


def check_config(folder: Path) -> None:
    """Raise UnsupportedModelError if the configuration in `folder` is not that of a causal language model."""
    config = load_config(folder)
    with loading_alone():
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{config.model_type} models are encoder-decoders, not decoder-only")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModelError(f"{config.model_type} models are no decoder-only language models")


@torch.inference_mode()
def check_model(lm: FrozenLM) -> None:
    """Raise UnsupportedModelError if input embeddings and the LM head are not all that the logits depend on."""
    name = lm.model.config.model_type
    try:
        faults = [why for found, expected, why in _pairs(lm) if _far(found, expected)]
    except (ValueError, TypeError, NotImplementedError, RuntimeError, AttributeError) as error:
        if out_of_memory(error) or own_mistake(error):
            raise
        raise UnsupportedModelError(
            f"{name} models cannot be run as memvec runs them: {first_line(error, 160)}"
        ) from error
    if faults:
        raise UnsupportedModelError(f"{name} models {faults[0]}")


def _pairs(lm: FrozenLM) -> Iterator[tuple[Tensor, Tensor, str]]:
    """(found, expected, the fault if they differ)."""
    ids = torch.arange(1, TOKENS + 1, device=lm.device)[None]
    embeds = lm.embed(ids)
    hidden = lm.hidden(embeds)
    # Later tokens are replaced, not dropped: another shape rounds differently, in bfloat16 by more than the difference sought.
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
    """Tie the model's head to its embeddings if the configuration says so. Return the model.

    transformers does not tie them while another thread of the program loads a model. After two such loads at once it never
    ties them again. UsageError if weights are still missing.
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
