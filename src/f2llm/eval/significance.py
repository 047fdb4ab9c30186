"""Is one model better than another, or was it luck with these texts? Paired bootstrap (Koehn, 2004).

Both models answer the same queries; the differences are drawn again with replacement, and the spread of their mean
tells how far other queries of the same kind could have moved it. It does not tell the spread over training seeds, for
which there is `paired_t`, nor over tasks that were not evaluated. Cost: `draws` times the number of pairs, about 0.1 s
for 1,000 pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from f2llm.core.errors import DataError
from f2llm.core.extras import optional
from f2llm.core.log import track
from f2llm.eval.metrics import resampled_means
from f2llm.eval.results import Run, TaskResult

Floats = npt.NDArray[np.floating]
MIN_PAIRS = 5  # of fewer pairs the bootstrap's interval is far too narrow


class Significance(NamedTuple):
    """Mean of a - b, its 95% percentile interval, and the two-sided p-value of "there is no difference"."""

    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True, kw_only=True)
class PairedTest:
    """Two models on one task, or on the mean of all tasks that both have (`task` is None).

    `unit` says what was drawn: queries, languages or tasks. `p_corrected` is Holm's, over the tasks of the same pair.
    """

    a: str
    b: str
    task: str | None
    unit: str
    pairs: int
    score_a: float
    score_b: float
    difference: float
    low: float
    high: float
    p: float
    p_corrected: float

    @property
    def clear(self) -> bool:
        """True where the corrected p-value is below 5%."""
        return self.p_corrected < 0.05


def paired_bootstrap(
    a: Sequence[float] | Floats, b: Sequence[float] | Floats, draws: int = 10_000, seed: int = 0
) -> Significance:
    """Compare paired scores `a` and `b`, [N] each; the same seed gives the same answer.

    The p-value is twice the smaller share of draws whose mean is not above (not below) zero, draws and data counted
    together, so it is never 0: at least 2 / (draws + 1). ValueError for different lengths and for no pair.
    """
    differences = _differences(a, b)
    means = resampled_means(differences, draws, seed)
    return _summary(float(differences.mean()), means)


def paired_t(
    a: Sequence[float] | Floats, b: Sequence[float] | Floats, level: float = 0.95
) -> tuple[float, float, float] | None:
    """Mean of a - b with its interval by Student's t, for a few pairs, such as seeds; None for fewer than two.

    The bootstrap's interval is far too narrow there; this one holds where differences are about normal. ValueError for
    different lengths and for no pair.
    """
    differences = _differences(a, b)
    if len(differences) < 2:
        return None
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / len(differences) ** 0.5
    reach = float(optional("scipy.special", "report").stdtrit(len(differences) - 1, (1 + level) / 2)) * error
    return mean, mean - reach, mean + reach


def stratified_bootstrap(
    tasks: Sequence[tuple[Sequence[float] | Floats, Sequence[float] | Floats]], draws: int = 10_000, seed: int = 0
) -> Significance:
    """The same for the mean over tasks: pairs are drawn within each task, and each task counts the same."""
    differences = [_differences(a, b) for a, b in tasks]
    means = np.zeros(draws)
    for number, values in enumerate(differences):
        means += resampled_means(values, draws, [seed, number]) / len(differences)
    return _summary(float(np.mean([values.mean() for values in differences])), means)


def _differences(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> Floats:
    left, right = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if left.shape != right.shape or left.ndim != 1 or not left.size:
        raise ValueError(f"paired scores need two equally long lists, not shapes {left.shape} and {right.shape}")
    differences: Floats = left - right
    return differences


def _summary(difference: float, means: Floats) -> Significance:
    low, high = np.quantile(means, [0.025, 0.975])
    below, above = np.count_nonzero(means <= 0), np.count_nonzero(means >= 0)
    p = min(1.0, 2 * (min(below, above) + 1) / (len(means) + 1))
    return Significance(difference, float(low), float(high), float(p))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction (1979) of p-values for having looked at all of them, in the order given."""
    corrected, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected


def compare_runs(a: Run, b: Run, *, draws: int = 10_000, seed: int = 0) -> list[PairedTest]:
    """A test for the mean over the tasks that both have a score for, then one for each of these tasks.

    Queries are drawn where both results have them, else languages; a task with fewer than 5 of either has no test. For
    the mean, pairs are drawn within tasks where every task has enough of them; else tasks are drawn, and with fewer
    than 5 tasks the mean has no test. DataError where the two share no task.
    """
    shared = [name for name in a.scores() if name in b.scores()]
    if not shared:
        raise DataError(f"{a.label} and {b.label} have no task in common; evaluate both on the same tasks")
    found = {name: _pairs(a.tasks[name], b.tasks[name]) for name in shared}
    tested = {name: pairs for name, pairs in found.items() if len(pairs[1]) >= MIN_PAIRS}
    by_task = [
        (name, unit, left, right, paired_bootstrap(left, right, draws, seed))
        for name, (unit, left, right) in track(tested.items(), f"bootstrap: {b.label}")
    ]
    corrected = holm([entry[-1].p for entry in by_task])
    tests = [
        _test(a, b, name, unit, left, right, answer, p)
        for (name, unit, left, right, answer), p in zip(by_task, corrected, strict=True)
    ]
    if len(tested) < len(shared) < MIN_PAIRS:
        return tests
    return [_overall(a, b, shared, tested, draws, seed), *tests]


def _pairs(a: TaskResult, b: TaskResult) -> tuple[str, Floats, Floats]:
    """What is paired, and the two scores of each."""
    queries = _common(a.scores_by_query, b.scores_by_query)
    if len(queries[0]) >= MIN_PAIRS:
        return "queries", *queries
    return "languages", *_common(a.scores_by_language, b.scores_by_language)


def _common(a: Mapping[str, float], b: Mapping[str, float]) -> tuple[Floats, Floats]:
    keys = [key for key in a if key in b]
    return np.array([a[key] for key in keys], dtype=float), np.array([b[key] for key in keys], dtype=float)


def _overall(a: Run, b: Run, shared: Sequence[str], tested: Mapping[str, Any], draws: int, seed: int) -> PairedTest:
    if len(tested) == len(shared):
        answer = stratified_bootstrap([(left, right) for _, left, right in tested.values()], draws, seed)
        units = sorted({unit for unit, _, _ in tested.values()}, reverse=True)
        left, right = (np.array([pairs[side].mean() for pairs in tested.values()]) for side in (1, 2))
        count = sum(len(pairs[1]) for pairs in tested.values())
        return _test(a, b, None, " and ".join(units), left, right, answer, answer.p, count)
    left, right = (np.array([run.scores()[name] for name in shared]) for run in (a, b))
    answer = paired_bootstrap(left, right, draws, seed)
    return _test(a, b, None, "tasks", left, right, answer, answer.p)


def _test(
    a: Run, b: Run, task: str | None, unit: str, left: Floats, right: Floats, answer: Significance, corrected: float,
    pairs: int | None = None,
) -> PairedTest:  # fmt: skip
    return PairedTest(
        a=a.label, b=b.label, task=task, unit=unit, pairs=len(left) if pairs is None else pairs,
        score_a=float(left.mean()), score_b=float(right.mean()), **answer._asdict(), p_corrected=corrected,
    )  # fmt: skip
