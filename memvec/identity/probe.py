"""The numeric probe: what a model says to fixed input in the declared numerics, to tell how far another one is from it."""

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
from memvec.store.transaction import Transaction
from memvec.types import Identity

TEXT = (
    "The ship left the harbour before dawn, and when the sun had risen nobody on shore could see her any more. In the "
    "first week there was little wind, and the men spoke of home."
)
POSITIONS, SEED = 16, 20250
TOP = 4  # likeliest tokens kept of each position
DIGITS = 4  # of log-probabilities [nats] behind the point


@torch.inference_mode()
def numeric_probe(lm: FrozenLM, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The likeliest tokens of a float32 model behind text and behind noise; with the input of the probe `like`, if it fits.

    The noise is drawn as wide as the embedding table, so that it tries the path that vectors take.
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
    """What a loaded transformers model says to the input of the probe `like`; None where that cannot be given to it.

    In the dtype it has. Tokens from `vocabulary` on, which a model has that was made larger, are left out.
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
    """The identity with what the model says to the input of the probe `like`."""
    return replace(found, probe={**found.probe, **numeric_probe(lm, like)})


def remember(transaction: Transaction, lm: FrozenLM) -> None:
    """Keep the model's probe with the store's next commit, where it has none and the model is in float32."""
    state = transaction.store.manifest
    if lm.dtype == torch.float32 and not all(part in state.probe for part in OUTPUTS):
        transaction.explain(state.tensors, {**state.probe, **numeric_probe(lm)})


def _fits(like: Mapping[str, Any], vocabulary: int) -> bool:
    """Can this input be given to a model? A store from a stranger may say anything."""
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
