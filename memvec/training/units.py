"""Starts and learning rates of exact vectors, in the model's own unit: the magnitude of its hidden states.

A vector that is small beside what the layers add is buried after a few of them. A larger one reaches them all.
Magnitudes of models differ a thousandfold, and do not follow from their embeddings (docs/LOG.md).
"""

from __future__ import annotations

from dataclasses import replace

from memvec.lm.frozen import FrozenLM
from memvec.settings import PackSettings

MAGNITUDES = 2.0  # of starts; from 1 to 4 the cost of fits is nearly the same
RATE = 0.5  # of the unit: at twice that, Gemma takes a tenth more steps, and SmolLM2 as many (docs/LOG.md)
DECAY = 0.05  # share of a vector that is lost in a step at the full learning rate
LARGEST = 2_500.0  # fits end at two to three times the unit, and vectors are stored in float16, which ends at 65,504


def unit_of(lm: FrozenLM) -> float:
    """The standard deviation of the elements of a model's starts. Learning rates are shares of it."""
    return min(MAGNITUDES * lm.magnitude, LARGEST)


def with_rates(settings: PackSettings, lm: FrozenLM) -> PackSettings:
    """The settings with the learning rate and weight decay that suit the model, where they name none."""
    rate = settings.learning_rate or RATE * unit_of(lm)
    # AdamW multiplies the two, so the decay of a step would grow with the rate.
    decay = min(1.0, DECAY / rate) if settings.weight_decay is None else settings.weight_decay
    return replace(settings, learning_rate=rate, weight_decay=decay)
