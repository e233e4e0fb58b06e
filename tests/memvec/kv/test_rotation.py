"""Keys that are moved are the keys that the model computes there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import make
from reading import off, tokens

from memvec.kv.rotation import Rotation, rotation_of
from memvec.lm import compat
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load


def keys_at(lm: FrozenLM, ids: list[int], first: int) -> list[torch.Tensor]:
    """Keys (H, N, E) of each layer, of tokens read from a position on."""
    cache = compat.empty_cache()
    places = torch.arange(first, first + len(ids))[None]
    with torch.inference_mode():
        lm.model.base_model(input_ids=torch.tensor([ids]), position_ids=places, past_key_values=cache, use_cache=True)
    return [layer.keys[0].float() for layer in cache.layers]


@pytest.mark.parametrize("move", [1, 250, -90])
def test_moved_keys_are_those_read_there(tiny_lm: FrozenLM, move: int) -> None:
    """In every layer, forwards and back."""
    ids, rotation = tokens(tiny_lm, 20), rotation_of(tiny_lm.model)
    assert rotation.movable
    for layer, (here, there) in enumerate(
        zip(keys_at(tiny_lm, ids, 100), keys_at(tiny_lm, ids, 100 + move), strict=True)
    ):
        moves = torch.full((here.shape[0] * here.shape[1],), move)
        found = rotation.turned(layer, here.flatten(0, 1), moves).view_as(here)
        assert off(found, there) < 1e-5 < off(here, there)


def test_angles_of_all_layers(tiny_lm: FrozenLM) -> None:
    """Keys of all layers are turned at once, each to its own place."""
    rotation, keys = rotation_of(tiny_lm.model), torch.randn(5, 32)
    places, slices = torch.tensor([3, -4, 8, 0, 1000]), [slice(0, 2), slice(2, 2), slice(2, 5), slice(5, 5)]
    found = rotation.turn(keys, rotation.angles(places, slices))
    assert off(found, torch.cat([rotation.turned(0, keys[[n]], places[[n]]) for n in range(5)])) < 1e-6
    assert torch.allclose(found[3], keys[3]) and torch.allclose(found.norm(dim=1), keys.norm(dim=1), rtol=1e-4)
    assert rotation.turn(keys[:0], rotation.angles(places[:0], [slice(0, 0)] * 4)).shape == (0, 32)


def test_gradients_are_turned_back(tiny_lm: FrozenLM) -> None:
    """A rotation's gradient is the rotation back."""
    rotation, keys, upstream = rotation_of(tiny_lm.model), torch.randn(4, 32, requires_grad=True), torch.randn(4, 32)
    (gradient,) = torch.autograd.grad(rotation.turned(0, keys, torch.tensor([1, 9, 77, -5])), keys, upstream)
    assert off(gradient, rotation.turned(0, upstream, -torch.tensor([1, 9, 77, -5]))) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fault", ["twice", "back", "not at all"])
def test_a_wrong_rotation_is_noticed(tiny: str, dtype: torch.dtype, fault: str) -> None:
    """Keys are not moved by a rotation that the model does not have, not even where rounding hides much."""
    model = load(Path(tiny), dtype).model
    assert Rotation(model).movable
    wrong = Rotation(model)
    right: Any = wrong._rotate
    sign = {"twice": 1, "back": -1, "not at all": 0}[fault]

    def rotate(q: Any, k: Any, cosine: Any, sine: Any) -> Any:
        once = right(q, k, cosine if sign else cosine * 0 + 1, sine * sign)
        return right(*once, cosine, sine) if fault == "twice" else once

    wrong._rotate = rotate
    assert not wrong.movable


@pytest.mark.parametrize(
    ("name", "movable", "context", "bound"),
    [
        ("gpt2", False, 512, True),
        ("opt", False, 512, True),
        ("llama", True, 512, False),
        ("llama, yarn", True, 512, False),
        ("llama, dynamic", True, 512, True),
        ("phi3, longrope", True, 512, True),
    ],
)
def test_where_positions_end(name: str, movable: bool, context: int, bound: bool, tmp_path: Path) -> None:
    """Learned positions end with their table. Some rotations are others in longer inputs."""
    lm = load(make(name, tmp_path))
    rotation = rotation_of(lm.model)
    assert (rotation.movable, rotation.context, rotation.bound) == (movable, context, bound)


def test_layers_without_rotation(tmp_path: Path) -> None:
    """Their keys stay as they are."""
    lm = load(make("smollm3", tmp_path))
    rotation, keys = rotation_of(lm.model), torch.randn(3, 16)
    moves = torch.tensor([5, 6, 7])
    assert rotation.movable
    assert off(rotation.turned(0, keys, moves), keys) > 0.1 and torch.equal(rotation.turned(1, keys, moves), keys)
    both = rotation.turn(torch.cat([keys, keys]), rotation.angles(moves.repeat(2), [slice(0, 3), slice(3, 6)]))
    assert off(both, torch.cat([rotation.turned(0, keys, moves), keys])) < 1e-6


def test_a_subclass_of_a_model_is_moved_too(tiny: str) -> None:
    """The rotation is that of its rotary module, wherever its own class was written."""
    model = load(Path(tiny)).model
    model.__class__ = type("Own", (type(model),), {"__module__": __name__})
    assert Rotation(model).movable
