"""Run rows of tokens behind shared prefixes. A prefix is run once for all of its rows.

Teacher and student, training and measuring use this. A prefix is the start of a prompt, then a text, its vectors, or
neither. Letters: S prefixes, P positions of the longest, R rows, L tokens of the longest, T scored tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memvec.chunks import chunked
from memvec.lm.frozen import FrozenLM
from memvec.lm.head import head_pass

ROWS_AT_ONCE = 64  # most rows of a forward pass without gradient
CACHE_AT_ONCE = 512 * 1024**2  # most bytes of their keys and values; on a GPU an eighth of its memory, if that is more
A_PASS_CPU, A_PASS = 32, 4096  # positions; see `pass_cost`


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens behind a prefix. Those from `start` on are scored; `start` is 1 or more."""

    ids: tuple[int, ...]
    start: int

    @property
    def scored(self) -> int:
        """How many tokens are scored."""
        return len(self.ids) - self.start


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Prefixes that were run, with their cache."""

    cache: object
    held: Tensor  # (S, P) 0 at padding, else 1


def run_prefixes(lm: FrozenLM, prefixes: Sequence[Tensor]) -> Prefixes:
    """Run prefixes of input embeddings (P_i, D), padded on the left. Differentiable. All may be empty."""
    length = max(map(len, prefixes))
    if not length:  # a model without BOS and nothing in front
        return Prefixes(None, torch.zeros(len(prefixes), 0, dtype=torch.long, device=lm.device))
    held = torch.zeros(len(prefixes), length, dtype=torch.long, device=lm.device)
    padded = []
    for i, prefix in enumerate(prefixes):
        held[i, length - len(prefix) :] = 1
        padded.append(torch.nn.functional.pad(prefix.to(lm.dtype), (0, 0, length - len(prefix), 0)))
    return Prefixes(lm.prefill(torch.stack(padded), held), held)


def run_rows(lm: FrozenLM, prefixes: Prefixes, owner: Sequence[int], rows: Sequence[Row]) -> Tensor:
    """Hidden states (T, D) that predict the scored tokens of each row, in order. Row r continues prefix owner[r]."""
    pieces: dict[int, Tensor] = {}
    for group in passes(lm, rows):
        chosen = [rows[r] for r in group]
        hidden = _run_group(lm, prefixes, [owner[r] for r in group], chosen)
        pieces |= dict(zip(group, torch.split(hidden, [row.scored for row in chosen]), strict=True))
    return torch.cat([pieces[r] for r in range(len(rows))])


def passes(lm: FrozenLM, rows: Sequence[Row]) -> list[list[int]]:
    """Groups of rows of similar length, each for one forward pass."""
    return alike([len(row.ids) for row in rows], pass_cost(lm))


def pass_cost(lm: FrozenLM) -> int:
    """The fixed cost of one more pass, in positions that could be run in its time."""
    return A_PASS_CPU if lm.device.type == "cpu" else A_PASS


def padded(rows: Sequence[Row], groups: Sequence[Sequence[int]]) -> int:
    """The positions that rows take in passes, padding included."""
    return sum(len(group) * max(len(rows[r].ids) for r in group) for group in groups)


def alike(lengths: Sequence[int], a_pass: int) -> list[list[int]]:
    """Group rows of similar length at the least total cost, where each group costs `a_pass` positions beside its rows."""
    order = sorted(range(len(lengths)), key=lambda r: lengths[r])
    ends = [
        n for n, r in enumerate(order, 1) if n == len(order) or lengths[order[n]] > lengths[r]
    ]  # a group may end only behind the last row of a length
    best, cuts = {0: 0}, {0: 0}  # for each number of shortest rows: the least cost, and the start of their last group
    for end in ends:
        longest = lengths[order[end - 1]]
        best[end], cuts[end] = min((best[begin] + (end - begin) * longest + a_pass, begin) for begin in best)
    groups: list[list[int]] = []
    end = len(order)
    while end:
        groups.insert(0, order[cuts[end] : end])
        end = cuts[end]
    return groups


def _run_group(lm: FrozenLM, prefixes: Prefixes, owner: Sequence[int], rows: Sequence[Row]) -> Tensor:
    length = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    places: list[int] = []
    for r, row in enumerate(rows):
        ids[r, : len(row.ids)] = torch.tensor(row.ids)
        mask[r, : len(row.ids)] = 1
        places += range(r * length + row.start - 1, r * length + len(row.ids) - 1)
    device = lm.device
    owners = torch.tensor(owner, device=device)
    hidden = lm.hidden_behind(prefixes.cache, prefixes.held, owners, ids.to(device), mask.to(device))
    return hidden.flatten(0, 1)[torch.tensor(places, device=device)]


def targets(lm: FrozenLM, rows: Sequence[Row]) -> Tensor:
    """The scored tokens (T,) of rows, in order."""
    return torch.tensor([token for row in rows for token in row.ids[row.start :]], device=lm.device)


def together(lm: FrozenLM, prefix: int, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Rows behind a prefix of `prefix` positions, in chunks whose keys and values fit in memory."""
    longest = max((len(row.ids) for row in rows), default=0)
    yield from chunked(rows, min(ROWS_AT_ONCE, rows_that_fit(lm, prefix + longest)))


def rows_that_fit(lm: FrozenLM, length: int) -> int:
    """How many rows of `length` positions may have keys and values at once."""
    gpu = torch.cuda.get_device_properties(lm.device).total_memory // 8 if lm.device.type == "cuda" else 0
    most = max(CACHE_AT_ONCE, gpu)
    return max(1, most // max(1, lm.cache_bytes * length))


@torch.inference_mode()
def score(lm: FrozenLM, prefix: Tensor | Prefixes, rows: Sequence[Row]) -> list[float]:
    """Surprisal of each row's scored tokens behind a prefix, embeddings (P, D) or run already [nats, summed over the row]."""
    run = prefix if isinstance(prefix, Prefixes) else run_prefixes(lm, [prefix])
    out: list[float] = []
    for chunk in together(lm, run.held.shape[1], rows):
        hidden = run_rows(lm, run, [0] * len(chunk), chunk)
        nats = head_pass(hidden, lm.head, targets(lm, chunk), gradient=False).nats
        out += [float(part.sum()) for part in torch.split(nats, [row.scored for row in chunk])]
    return out


@torch.inference_mode()
def sample(
    lm: FrozenLM,
    prefixes: Sequence[Tensor] | Prefixes,
    owner: Sequence[int],
    heads: Sequence[Sequence[int]],
    new: int,
    temperature: float,
    seed: int = 0,
    over: Callable[[Sequence[int]], bool] | None = None,
) -> list[list[int]]:
    """Continue prefix owner[r] and the head tokens of each row by `new` drawn tokens. Return the drawn tokens.

    At a `temperature` of 0 the likeliest tokens are taken. Drawing ends early once the tokens of every row are `over`.
    Recurrent models take heads of one token.
    """
    chance = torch.Generator(lm.device).manual_seed(seed)
    run = prefixes if isinstance(prefixes, Prefixes) else run_prefixes(lm, prefixes)
    owners = torch.tensor(owner, device=lm.device)
    cache, mask = lm.branch(run.cache, owners), run.held[owners]
    ids, more = (part.to(lm.device) for part in _left_padded(heads))
    drawn: list[Tensor] = []
    going = set(range(len(heads)))
    for _ in range(new):
        mask = torch.cat([mask, more], 1)
        logits, cache = lm.advance(ids, cache, mask)
        drawn.append(_drawn(logits / temperature, chance) if temperature else logits.argmax(1))
        ids, more = drawn[-1][:, None], mask.new_ones(len(heads), 1)
        if over is not None:
            said = torch.stack(drawn, dim=1).tolist()
            going -= {r for r in going if over(said[r])}
            if not going:
                break
    rows: list[list[int]] = torch.stack(drawn, dim=1).tolist()
    return rows


def _left_padded(heads: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(ids (R, L), mask (R, L)): every row ends in the last column."""
    longest = max(map(len, heads))
    ids = torch.zeros(len(heads), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for r, head in enumerate(heads):
        ids[r, longest - len(head) :] = torch.tensor(head)
        mask[r, longest - len(head) :] = 1
    return ids, mask


def _drawn(logits: Tensor, chance: torch.Generator) -> Tensor:
    """Draw a token (R,) for each row of logits (R, V). torch.multinomial takes several times as long on a CPU."""
    reached = logits.float().softmax(1).cumsum(1, dtype=torch.float64)
    level = torch.rand(len(logits), 1, generator=chance, device=logits.device, dtype=torch.float64) * reached[:, -1:]
    return torch.searchsorted(reached, level, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


def embedded(lm: FrozenLM, ids: Sequence[int]) -> Tensor:
    """Input embeddings (N, D) of ids."""
    return lm.embed(torch.tensor(list(ids), dtype=torch.long, device=lm.device))
