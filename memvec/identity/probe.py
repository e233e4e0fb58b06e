"""The numeric probe: the likeliest tokens of a model for fixed input. Two probes tell how far two models are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memvec.identity.verdict import OUTPUTS
from memvec.lm.frozen import FrozenLM
from memvec.lm.numerics import declared_numerics
from memvec.types import Identity

TEXT = (
    "The ship left the harbour before dawn, and when the sun had risen nobody on shore could see her any more. In the "
    "first week there was little wind, and the men spoke of home."
)
POSITIONS, SEED = 16, 20250
TOP = 4  # likeliest tokens noted at each position
DIGITS = 4  # decimal places of log-probabilities [nats]


@torch.inference_mode()
def numeric_probe(lm: FrozenLM, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Ask a float32 model: its likeliest tokens after text and after noise. The input is that of `like`, if it fits.

    The noise has the spread of the embedding table, so that it takes the path of vectors.
    """
    ids = [int(token) for token in lm.encode(TEXT)[:POSITIONS]]
    scale = round(float(lm.table.float().std()), 6)
    if like and _fits(like, lm.vocabulary):
        ids, scale = like["ids"], like["scale"]
    drawn = np.random.Generator(np.random.PCG64(SEED)).standard_normal((POSITIONS, lm.width)) * scale
    noise = torch.from_numpy(drawn.astype(np.float32))[None].to(lm.device)
    with declared_numerics(lm.device):
        said = [_said(lm, lm.embed(torch.tensor([ids], device=lm.device))), _said(lm, noise)]
    return {"ids": ids, "scale": scale, **dict(zip(OUTPUTS, said, strict=True))}


@torch.inference_mode()
def said_by(model: Any, like: Mapping[str, Any], vocabulary: int) -> dict[str, Any] | None:
    """Ask a loaded transformers model, in its own dtype, with the input of the probe `like`; None if it does not fit.

    Tokens from `vocabulary` on are left out: the model was made larger for added tokens.
    """
    look = model.get_input_embeddings()
    if not _fits(like, min(vocabulary, look.weight.shape[0])):
        return None
    device = model.device
    drawn = np.random.Generator(np.random.PCG64(SEED)).standard_normal((POSITIONS, look.weight.shape[1]))
    noise = torch.from_numpy((drawn * like["scale"]).astype(np.float32))[None].to(device, model.dtype)
    training = model.training
    try:
        if training:
            model.eval()  # without dropout
        with torch.autocast(device.type, enabled=False):
            inputs = (look(torch.tensor([like["ids"]], device=device)).to(model.dtype), noise)
            logits = [model(inputs_embeds=embeds, use_cache=False).logits for embeds in inputs]
    finally:
        if training:
            model.train()
    said = [_likeliest(row[0, :, :vocabulary].float()) for row in logits]
    return {**like, **dict(zip(OUTPUTS, said, strict=True))}


def probed(found: Identity, lm: FrozenLM, like: Mapping[str, Any]) -> Identity:
    """Add to an identity the model's answers to the input of the probe `like`."""
    return replace(found, probe={**found.probe, **numeric_probe(lm, like)})


def _fits(like: Mapping[str, Any], vocabulary: int) -> bool:
    """Is this input valid for a model? A store from a stranger may hold anything."""
    ids, scale = like.get("ids"), like.get("scale")
    if not isinstance(ids, list) or not 0 < len(ids) <= POSITIONS or type(scale) is not float:
        return False
    return all(type(token) is int and 0 <= token < vocabulary for token in ids)


def _said(lm: FrozenLM, embeds: Tensor) -> dict[str, Any]:
    """The likeliest tokens and their log-probabilities after each of the input embeddings (1, L, D)."""
    return _likeliest((lm.hidden(embeds.to(lm.dtype)) @ lm.head.T)[0].float())


def _likeliest(logits: Tensor) -> dict[str, Any]:
    """The likeliest tokens and their log-probabilities of logits (L, V)."""
    logs, tokens = torch.log_softmax(logits, -1).topk(min(TOP, logits.shape[-1]))
    return {"tokens": tokens.tolist(), "logs": [[round(value, DIGITS) for value in row] for row in logs.tolist()]}
