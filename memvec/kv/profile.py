"""Profiles of heads: the share of its rows that each head of a model keeps.

Some heads look at nearly all of a document, most at little of it. That belongs to the model, not to the document. So does
the share of their attention that goes to the rows they keep. It tells how far texts can be cut.

A profile is found once for a model, from fixed texts in the package (`data/profile_texts.jsonl`: a dozen invented documents
of some 140 to 600 tokens). Memories of one length then have one layout. Profiles are in the cache folder, those that come with
the package in `data/kv_profiles`. This makes one of those:

    python -c "from memvec.kv import profile; profile.ship('smollm2-135m', 'memvec/data/kv_profiles')"

Letters: R ratios, L layers, H key/value heads, N tokens of a text.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from memvec.checkpoints.identify import fingerprint_folder
from memvec.checkpoints.resolve import resolve
from memvec.filesystem.cache_folder import cache_root
from memvec.formats import files
from memvec.kv.choose import adaptive, best, positions_for
from memvec.kv.scores import read
from memvec.lm.frozen import FrozenLM
from memvec.lm.load import load

VERSION = 2  # of the texts and the way to find shares
FOLDER = "kv_profiles"
RATIOS = (2.0, 4.0, 8.0, 16.0, 32.0)
MOST_TOKENS = 600  # of a text
DIGITS = 5  # of a share
SAFE = 0.7  # least share of the attention that a safe ratio keeps: below it, names and numbers are lost


@dataclass(frozen=True, slots=True, eq=False)
class HeadProfile:
    """The shares of a model's heads at some ratios."""

    ratios: tuple[float, ...]  # R, rising, the first is 1
    shares: Tensor  # (R, L, H) float64 [0..1]
    attention: tuple[float, ...]  # R, the share of the heads' attention that goes to the rows they keep [0..1]

    @property
    def safe_ratio(self) -> float:
        """The greatest of the ratios at which memories need no training: heads keep `SAFE` of their attention."""
        return max(ratio for ratio, share in zip(self.ratios, self.attention, strict=True) if share >= SAFE)

    def at(self, ratio: float) -> Tensor:
        """The shares (L, H) at any ratio: straight lines over the ratio's logarithm, level above the last one."""
        if ratio >= self.ratios[-1]:
            return self.shares[-1]
        high = bisect_right(self.ratios, ratio)
        before, behind = (math.log(self.ratios[place]) for place in (high - 1, high))
        along = (math.log(ratio) - before) / (behind - before)
        return self.shares[high - 1].lerp(self.shares[high], along)


def texts() -> list[str]:
    """The fixed texts."""
    lines = (resources.files("memvec") / "data" / "profile_texts.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


@torch.inference_mode()
def found(lm: FrozenLM, most: int = MOST_TOKENS, tick: Callable[[], None] = lambda: None) -> HeadProfile:
    """Find the profile of a model. Each text is read up to `most` tokens, and said again."""
    shares, attention = [], []  # of each text
    for text in texts():
        ids = lm.encode(text)[: min(most, MOST_TOKENS)]
        scores = read(lm, [ids], "repeat").scores
        counts = [adaptive(scores, [positions_for(len(ids), ratio)]) for ratio in RATIOS]
        shares.append(torch.stack([of_heads[:, 0].cpu().double() / len(ids) for of_heads in counts]))
        total = scores.double().sum()
        attention.append([float((scores * best(scores, of_heads)).double().sum() / total) for of_heads in counts])
        tick()
    mean = torch.stack(shares).mean(0)
    rounded = (mean * 10**DIGITS).round() / 10**DIGITS  # as it is written, so that both give the same memories
    kept = [round(share, DIGITS) for share in torch.tensor(attention).double().mean(0).tolist()]
    return HeadProfile((1.0, *RATIOS), torch.cat([torch.ones_like(rounded[:1]), rounded]), (1.0, *kept))


def profile_of(
    lm: FrozenLM, fingerprint: str, most: int = MOST_TOKENS, tick: Callable[[], None] = lambda: None
) -> HeadProfile:
    """The profile for the id of a model's fingerprint: kept in the cache folder or the package, or else found and kept."""
    for file in _places(fingerprint):
        with suppress(OSError, ValueError, TypeError, KeyError):  # the profile is missing or damaged
            return _read(json.loads(file.read_text("utf-8")))
    profile = found(lm, most, tick)
    with suppress(OSError):  # it is found again next time
        _write(profile, fingerprint, cache_root() / FOLDER)
    return profile


def ship(model: str, folder: str | Path) -> None:
    """Find the profile of a model on the CPU in float32, and write it to a folder."""
    checkpoint = resolve(model)
    lm = load(checkpoint, torch.float32, "cpu")
    _write(found(lm), fingerprint_folder(checkpoint).id, Path(folder))


def _places(fingerprint: str) -> Iterator[Path]:
    for folder in (cache_root() / FOLDER, resources.files("memvec") / "data" / FOLDER):
        yield folder / f"{fingerprint}.json"  # type: ignore[misc]


def _read(value: dict[str, object]) -> HeadProfile:
    """A profile from JSON. ValueError, TypeError or KeyError for anything else."""
    shares = torch.tensor(value["shares"], dtype=torch.float64)
    ratios = tuple(float(ratio) for ratio in value["ratios"])  # type: ignore[attr-defined]
    attention = torch.tensor(value["attention"], dtype=torch.float64)
    sound = ratios == (1.0, *RATIOS) and shares.ndim == 3 and len(shares) == len(ratios) == len(attention)
    within = all(bool(((part >= 0) & (part <= 1)).all()) for part in (shares, attention))
    if value["version"] != VERSION or not sound or not within:
        raise ValueError("no profile of this version")
    return HeadProfile(ratios, shares, tuple(attention.tolist()))


def _write(profile: HeadProfile, fingerprint: str, folder: Path) -> None:
    shares = [[[round(share, DIGITS) for share in row] for row in layer] for layer in profile.shares.tolist()]
    attention = [round(share, DIGITS) for share in profile.attention]
    value = {
        "version": VERSION,
        "fingerprint": fingerprint,
        "ratios": profile.ratios,
        "attention": attention,
        "shares": shares,
    }
    files.make_folder(folder)
    files.write_atomically(folder / f"{fingerprint}.json", (json.dumps(value) + "\n").encode())
