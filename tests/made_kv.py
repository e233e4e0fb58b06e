"""Make keys and values by hand, quickly and without a model. They are noise."""

from __future__ import annotations

import numpy as np

from memvec.formats.keys_values import quantised
from memvec.types import KeysValues

LAYERS, HEADS, HEAD_WIDTH = 2, 2, 4


def keys_values(seed: int = 0, bits: int = 8, tokens: int = 12) -> KeysValues:
    """Some rows of each head of a text of that many tokens."""
    noise = np.random.default_rng([seed, bits, tokens])
    counts = noise.integers(1, tokens, (LAYERS, HEADS)).astype(np.uint32)
    places = [np.sort(noise.choice(tokens, count, replace=False)) for count in counts.reshape(-1)]
    keys, values = noise.standard_normal((2, int(counts.sum()), HEAD_WIDTH)).astype(np.float32)
    distances = (tokens - np.concatenate(places)).astype(np.uint32)
    codes, scales, value_codes, value_scales = quantised(keys, values, counts, bits)
    return KeysValues(tokens // 2, bits, counts, distances, codes, scales, value_codes, value_scales)
