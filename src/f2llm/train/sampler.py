"""Which rows make up step s: one source per batch, and nothing but (seed, step) decides.

The position of a run is one integer. Starting and resuming cost the same for ten rows and for a billion: every order is
a function of the place (`permutation`), and memory is per source, not per row or step. What a source's batches hold
depends on that source alone, so adding another changes only when they come.

In a `Mixture` a source gets more or fewer batches an epoch than it has. Its batches are counted over all epochs; as
many as it has are one pass over its rows, and each pass has its own order and negatives. Inside an epoch batches come
in random order, so a source that takes several passes an epoch does not end one before it starts the next.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import ConfigError, DataError
from f2llm.core.types import TaskType
from f2llm.data.store import TokenStore
from f2llm.train.permutation import key64, mixed, permuted

Floats = NDArray[np.float64]
Languages = Mapping[str, Mapping[str, float]]

_CHUNK = 1 << 20
_TOLERANCE = 1e-6
_ITERATIONS = 1000
_LOWEST_EXPONENT = -600.0


@dataclass(frozen=True)
class Mixture:
    """Which share of the batches each source gets: in proportion to size**alpha, then within bounds.

    Floors and caps are shares of all batches, by source and by language of the queries.
    """

    alpha: float = 1.0
    floors: Mapping[str, float] = field(default_factory=dict)
    caps: Mapping[str, float] = field(default_factory=dict)
    language_floors: Mapping[str, float] = field(default_factory=dict)
    language_caps: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ConfigError(f"mixture: alpha is {self.alpha}, it must be above 0 and at most 1")
        for name in ("floors", "caps", "language_floors", "language_caps"):
            for key, share in getattr(self, name).items():
                if not 0 <= share <= 1:
                    raise ConfigError(f"mixture: {name} of {key!r} is {share}, it must be between 0 and 1")

    def about(self, sources: Collection[str], languages: Collection[str]) -> Mixture:
        """The same as far as it speaks of these sources and languages."""

        def chosen(shares: Mapping[str, float], known: Collection[str]) -> dict[str, float]:
            return {key: share for key, share in shares.items() if key in known}

        return Mixture(
            self.alpha,
            chosen(self.floors, sources),
            chosen(self.caps, sources),
            chosen(self.language_floors, languages),
            chosen(self.language_caps, languages),
        )

    @property
    def natural(self) -> bool:
        """Whether each source simply gets all its batches once an epoch."""
        return self.alpha == 1 and not (self.floors or self.caps or self.language_floors or self.language_caps)


@dataclass(frozen=True)
class Draw:
    """The rows of one step; `epoch` counts the passes over this source."""

    source: str
    epoch: int
    rows: NDArray[np.int64]


class BatchSampler:
    """Batches of `batch_size` rows (a source's last batches are evened out, none is dropped).

    `held_out` rows of a source never come. `languages` gives each source's shares of query languages.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        batch_size: int,
        seed: int,
        *,
        mixture: Mixture | None = None,
        languages: Languages | None = None,
        held_out: Mapping[str, int] | None = None,
    ) -> None:
        self.sizes, self.seed, self.held_out = dict(sizes), seed, dict(held_out or {})
        self.trained = {source: size - self.held_out.get(source, 0) for source, size in self.sizes.items() if size}
        for source, rows in self.trained.items():
            if rows < 1:
                raise ConfigError(f"source {source!r}: all of its {self.sizes[source]} rows are held out")
        if not self.trained:
            raise DataError("no source has a row to train on")
        self.batches = {source: -(-rows // batch_size) for source, rows in self.trained.items()}
        self.steps_per_epoch = sum(self.batches.values())
        self.per_epoch = self._batches_per_epoch(mixture or Mixture(), languages or {})
        self._names = list(self.per_epoch)
        self._starts = np.concatenate([[0], np.cumsum(list(self.per_epoch.values()), dtype=np.int64)])

    def draw(self, step: int) -> Draw:
        """The rows of step `step` (from 0)."""
        epoch, position = divmod(int(step), self.steps_per_epoch)
        place = self._places(epoch, np.array([position]))
        index = int(self._source_indices(place)[0])
        source = self._names[index]
        count = epoch * self.per_epoch[source] + int(place[0] - self._starts[index])
        number, batch = divmod(count, self.batches[source])
        edges = (self.trained[source] * i // self.batches[source] for i in (batch, batch + 1))
        return Draw(source, number, self._rows(source, number, np.arange(*edges)))

    def planned(self, steps: int) -> dict[str, dict[str, float]]:
        """What the first `steps` steps draw: by source rows, batches, batches drawn, passes over it, share of steps."""
        epochs, rest = divmod(int(steps), self.steps_per_epoch)
        drawn = epochs * np.diff(self._starts)
        for start in range(0, rest, _CHUNK):
            places = self._places(epochs, np.arange(start, min(start + _CHUNK, rest)))
            drawn += np.bincount(self._source_indices(places), minlength=len(self._names))
        return {
            source: {
                "rows": self.trained[source],
                "batches": self.batches[source],
                "drawn": int(count),
                "passes": int(count) / self.batches[source],
                "share": int(count) / max(steps, 1),
            }
            for source, count in zip(self._names, drawn, strict=True)
        }

    def _places(self, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the steps of an epoch stand in the list of all its batches, source after source."""
        return permuted(positions, self.steps_per_epoch, self.seed, "order", epoch)

    def _source_indices(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.asarray(np.searchsorted(self._starts, places, side="right") - 1)

    def _rows(self, source: str, number: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows at `positions` of the pass `number` over a source."""
        rows = permuted(positions, self.trained[source], self.seed, "rows", number, source)
        return _split(rows, self.sizes[source], self.seed, source) if self.held_out.get(source) else rows

    def _batches_per_epoch(self, mixture: Mixture, languages: Languages) -> dict[str, int]:
        if mixture.natural:
            return dict(self.batches)
        weights = self.batches if mixture.alpha == 1 else self.trained
        shares = mixture_shares({**dict.fromkeys(self.sizes, 0), **weights}, mixture, languages)
        return _whole({source: shares[source] for source in self.batches}, self.steps_per_epoch)


def draw_rows(store: TokenStore, draw: Draw, negatives: int, seed: int) -> NDArray[np.int64]:
    """The [B, 2+K] store indices of a draw, with K negatives a row chosen at random by (seed, pass, source, row)."""
    order = np.argsort(draw.rows)
    table = np.empty((len(order), store.rows[draw.source].shape[1]), dtype=np.int64)
    table[order] = store.rows[draw.source][draw.rows[order]]
    candidates = table[:, 2:]
    keys = _hashed(draw.rows, candidates.shape[1], seed, draw.epoch, draw.source)
    keys[candidates < 0] = np.iinfo(np.uint64).max
    chosen = np.argsort(keys, axis=1, kind="stable")[:, :negatives]
    return np.concatenate([table[:, :2], np.take_along_axis(candidates, chosen, axis=1)], axis=1)


def negatives_of(task_type: TaskType, retrieval: int, clustering: int) -> int:
    """Hard negatives per step: 7 and 9 in the paper; two-way classification has the one opposite label."""
    return {"retrieval": retrieval, "clustering": clustering, "classification": 1}[task_type]


def held_out_counts(sizes: Mapping[str, int], fraction: float, most: int) -> dict[str, int]:
    """How many rows of each source to hold out: `fraction` rounded up, at most `most`, never all of them."""
    return {
        source: min(math.ceil(size * fraction - 1e-9), most, max(size - 1, 0)) if fraction else 0
        for source, size in sizes.items()
    }


def held_out_rows(source_size: int, held_out: int, seed: int, source: str) -> NDArray[np.int64]:
    """The rows of a source that `BatchSampler` leaves out where `held_out` are to be."""
    return _split(np.arange(source_size - held_out, source_size), source_size, seed, source)


def _split(positions: NDArray[np.int64], size: int, seed: int, source: str) -> NDArray[np.int64]:
    """The order of a source's rows that ends in the held-out ones."""
    return permuted(positions, size, seed, "validation", source)


def _hashed(rows: NDArray[np.int64], slots: int, *key: str | int) -> NDArray[np.uint64]:
    """A random-looking uint64 for each (row, slot) under `key`."""
    counter = rows.astype(np.uint64)[:, None] * np.uint64(slots) + np.arange(slots, dtype=np.uint64)[None, :]
    return mixed((counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key64(*key)))


def mixture_shares(sizes: Mapping[str, int], mixture: Mixture, languages: Languages) -> dict[str, float]:
    """Share of the batches of each source: nearest to size**alpha (in relative entropy) within the mixture's bounds."""
    names = [source for source, size in sizes.items() if size > 0]
    _check_names(mixture, sizes, languages)
    weights = np.array([float(sizes[source]) ** mixture.alpha for source in names])
    low = np.array([mixture.floors.get(source, 0.0) for source in names])
    high = np.array([mixture.caps.get(source, 1.0) for source in names])
    _check_bounds(names, low, high)
    bounds = [(tag, 1.0, share) for tag, share in mixture.language_floors.items()]
    bounds += [(tag, -1.0, share) for tag, share in mixture.language_caps.items()]
    G_LS = np.array([[sign * languages.get(s, {}).get(tag, 0.0) for s in names] for tag, sign, _ in bounds])
    for bound, row in zip(bounds, G_LS, strict=True):
        _check_language(bound, _reachable(row, low, high), "is reachable")
    wanted = np.array([sign * share for _, sign, share in bounds])
    shares = _within(weights / weights.sum(), low, high, G_LS.reshape(len(bounds), len(names)), wanted)
    for bound, row in zip(bounds, G_LS, strict=True):
        _check_language(bound, float(row @ shares), "was reached beside the other bounds")
    return {**dict.fromkeys(sizes, 0.0), **dict(zip(names, shares.tolist(), strict=True))}


def _within(weights: Floats, low: Floats, high: Floats, G_LS: Floats, wanted_L: Floats) -> Floats:
    """Shares nearest to `weights` with low <= shares <= high and G @ shares >= wanted, or as near as the search gets.

    Damped Newton ascent of the dual problem: a bound with multiplier m gives each source's weight the factor exp(m G).
    """
    multipliers, damping = np.zeros(len(wanted_L)), 1e-3
    shares = _filled(weights, low, high)
    value = _relative_entropy(shares, weights)
    for _ in range(_ITERATIONS):
        gap = wanted_L - G_LS @ shares
        if (gap <= _TOLERANCE).all() and (gap[multipliers > 0] >= -_TOLERANCE).all():
            break
        free = np.where((shares > low) & (shares < high), shares, 0.0)
        tried = np.maximum(multipliers + _newton_step(G_LS, free, gap, (multipliers > 0) | (gap > 0), damping), 0)
        exponents = tried @ G_LS
        moved = _filled(weights * np.exp(np.maximum(exponents - exponents.max(), _LOWEST_EXPONENT)), low, high)
        reached = _relative_entropy(moved, weights) + float(tried @ (wanted_L - G_LS @ moved))
        if reached < value - 1e-12 or np.ptp(exponents) > -_LOWEST_EXPONENT:
            damping *= 10
            continue
        multipliers, shares, value, damping = tried, moved, reached, max(damping / 10, 1e-9)
    return shares


def _newton_step(G_LS: Floats, free_S: Floats, gap_L: Floats, active_L: NDArray[np.bool_], damping: float) -> Floats:
    """Change of the active multipliers that closes the gap to first order; `free_S`: the shares that can move."""
    mean_L = G_LS @ free_S
    curvature = (G_LS * free_S) @ G_LS.T - np.outer(mean_L, mean_L) / max(float(free_S.sum()), 1e-12)
    step, part = np.zeros_like(gap_L), np.ix_(active_L, active_L)
    step[active_L] = np.linalg.solve(curvature[part] + damping * np.eye(int(active_L.sum())), gap_L[active_L])
    return step


def _filled(weights: Floats, low: Floats, high: Floats) -> Floats:
    """Shares in proportion to `weights` that add up to 1, where low <= share <= high lets them (water filling)."""
    shares, free = np.zeros_like(weights), np.ones(len(weights), dtype=bool)
    while weights[free].sum() > 0:
        shares[free] = (1 - shares[~free].sum()) * weights[free] / weights[free].sum()
        change = np.where(free, np.clip(shares, low, high) - shares, 0.0)
        shares += change
        if not change.any():
            break
        total = change.sum()
        free &= ~((change > 0) & (total >= 0) | (change < 0) & (total <= 0))
    return shares


def _relative_entropy(shares: Floats, weights: Floats) -> float:
    present = shares > 0
    return float(np.sum(shares[present] * np.log(shares[present] / weights[present])))


def _reachable(row: Floats, low: Floats, high: Floats) -> float:
    """The largest `row @ shares` with low <= shares <= high."""
    order = np.argsort(-row)
    room = (high - low)[order]
    given = np.clip(1 - low.sum() - (np.cumsum(room) - room), 0, room)
    return float(row @ low + row[order] @ given)


def _check_names(mixture: Mixture, sizes: Mapping[str, int], languages: Languages) -> None:
    for kind, bounds in (("floor", mixture.floors), ("cap", mixture.caps)):
        for source, share in bounds.items():
            if source not in sizes:
                raise ConfigError(f"mixture: {kind} for {source!r}, which is not a source; sources: {', '.join(sizes)}")
            if kind == "floor" and share > 0 and not sizes[source]:
                raise ConfigError(f"mixture: floor {share:g} for source {source!r}, which has no rows; 0 is reachable")
    known = {tag for source in sizes for tag in languages.get(source, {})}
    for tag in [*mixture.language_floors, *mixture.language_caps]:
        if tag not in known:
            raise ConfigError(
                f"mixture: no query is in language {tag!r}, 0 is reachable; languages: {', '.join(sorted(known))}"
            )


def _check_bounds(names: list[str], low: Floats, high: Floats) -> None:
    """Refuse floors above the cap, floors that add up to more than 1, and caps that leave batches to nobody."""
    for source, floor, cap in zip(names, low, high, strict=True):
        if floor > cap:
            raise ConfigError(f"mixture: source {source!r} has floor {floor:g} above its cap {cap:g}")
    if low.sum() > 1 + _TOLERANCE:
        i = int(low.argmax())
        raise ConfigError(
            f"mixture: source {names[i]!r} has floor {low[i]:g}, but the other floors leave "
            f"{max(1 - low.sum() + low[i], 0):.4g}; lower some floors"
        )
    if high.sum() < 1 - _TOLERANCE:
        i = int(high.argmax())
        raise ConfigError(
            f"mixture: source {names[i]!r} has cap {high[i]:g}, but the other caps leave "
            f"{1 - high.sum() + high[i]:.4g} to it; raise some caps"
        )


def _check_language(bound: tuple[str, float, float], reached: float, how: str) -> None:
    """Refuse a language's floor (sign 1) or cap (sign -1) that `reached`, with the same sign, falls short of."""
    tag, sign, share = bound
    if reached < sign * share - 10 * _TOLERANCE:
        kind, least = ("floor", "at most") if sign > 0 else ("cap", "at least")
        raise ConfigError(
            f"mixture: language {tag!r} has {kind} {share:g}, but {least} {abs(reached):.4g} {how}; "
            f"{'lower' if sign > 0 else 'raise'} it"
        )


def _whole(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` batches in these shares: largest remainders, at least one wherever the share is not 0."""
    quotas = np.array(list(shares.values())) * total
    counts = np.where(quotas > 0, np.maximum(np.floor(quotas), 1), 0).astype(np.int64)
    missing = total - int(counts.sum())
    if missing > 0:
        counts[np.argsort(np.where(quotas > 0, counts - quotas, np.inf), kind="stable")[:missing]] += 1
    for _ in range(-missing):
        counts[np.argmax(np.where(counts > 1, counts - quotas, -np.inf))] -= 1
    return dict(zip(shares, counts.tolist(), strict=True))
