"""The head of a classifier: multinomial logistic regression on unit vectors, its regularisation, its honest scores.

`C` is chosen by log loss on held-out folds, since it is probabilities that a threshold cuts: a head that is right but
too sure would lose by it. All rows of a group (by default: all rows with the same text) are in one fold, so a text that
comes twice cannot be learnt in one fold and asked in another. The scores of the chosen `C` come from the folds that
chose it among six; rows that were not trained on (`classify eval`) are the stricter judge.

Cost: 30 fits for five folds, each C continuing from the one before it; 2,501 rows of 384 dimensions and 77 labels take
less than 29 s of one core, the model's own work included. Memory: the vectors, once more for each fit's rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import DataError
from f2llm.core.extras import optional
from f2llm.core.log import Bar
from f2llm.model.vectors import Vectors

GRID = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
"""Values of C, from strong regularisation to weak."""
FOLDS = 5
ITERATIONS = 400
_LEAST = 1e-6  # a probability below it counts as this in the log loss

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Validation:
    """What the folds say: the chosen C, the log loss of each C, and for each row the label and its probability."""

    C: float
    losses: dict[float, float]
    folds: int
    predicted_N: Ints
    confidence_N: Floats


def fit(V_ND: Vectors, labels_N: Ints, C: float, balanced: bool, start: Any = None) -> Any:
    """A fitted LogisticRegression; `start`: one of the same rows to begin from."""
    head = start or _head(balanced)
    head.set_params(C=C)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that has not converged after so many steps is near enough
        head.fit(V_ND, labels_N)
    return head


def _head(balanced: bool) -> Any:
    return optional("sklearn.linear_model", "apps").LogisticRegression(
        class_weight="balanced" if balanced else None, max_iter=ITERATIONS, warm_start=True
    )


def probabilities(head: Any, V_ND: Vectors, labels: int) -> Floats:
    """[N, labels]; a label that the head was not trained on has 0."""
    found_NL = np.zeros((len(V_ND), labels))
    found_NL[:, head.classes_] = head.predict_proba(V_ND)
    return found_NL


def fold_numbers(labels_N: Ints, groups: Sequence[str], folds: int, seed: int) -> Ints:
    """The fold of each row [N]: labels spread evenly, no group in two folds; DataError for fewer than two groups."""
    selection = optional("sklearn.model_selection", "apps")
    group_N = np.unique(np.asarray(groups, dtype=object), return_inverse=True)[1]
    distinct = int(group_N.max(initial=-1)) + 1
    count = min(folds, distinct)
    if count < 2:
        raise DataError(f"{distinct} distinct texts are too few to train and to test; give at least two of each label")
    kind = selection.StratifiedKFold if distinct == len(labels_N) else selection.StratifiedGroupKFold
    splitter = kind(n_splits=count, shuffle=True, random_state=seed)
    found_N = np.empty(len(labels_N), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels with fewer rows than folds; the report shows how few they are
        try:
            for number, (_, rows) in enumerate(splitter.split(labels_N, labels_N, group_N)):
                found_N[rows] = number
        except ValueError:  # every label has fewer rows than there are folds
            return group_N % count
    return found_N


def cross_validate(
    V_ND: Vectors, labels_N: Ints, fold_N: Ints, labels: int, balanced: bool, grid: Sequence[float] = GRID
) -> Validation:
    """Choose C on the folds; every row is judged by a head that has not seen its fold."""
    shape = (len(grid), len(labels_N))
    predicted, confidence, loss = np.zeros(shape, np.int64), np.zeros(shape), np.full(shape, np.nan)
    folds = np.unique(fold_N)
    with Bar("choosing the regularisation", len(folds) * len(grid)) as bar:
        for fold in folds:
            rows, others = np.flatnonzero(fold_N == fold), np.flatnonzero(fold_N != fold)
            if len(np.unique(labels_N[others])) < 2:
                raise DataError("a fold has only one label to learn from; give more rows of each label")
            head = None
            for place, C in enumerate(grid):
                head = fit(V_ND[others], labels_N[others], C, balanced, head)
                P_NL = probabilities(head, V_ND[rows], labels)
                predicted[place, rows] = P_NL.argmax(axis=1)
                confidence[place, rows] = P_NL.max(axis=1)
                loss[place, rows] = -np.log(np.maximum(P_NL[np.arange(len(rows)), labels_N[rows]], _LEAST))
                bar.advance()
    means = np.average(loss, axis=1, weights=_weights(labels_N, balanced))
    best = int(means.argmin())
    losses = {C: float(mean) for C, mean in zip(grid, means, strict=True)}
    return Validation(grid[best], losses, len(folds), predicted[best], confidence[best])


def _weights(labels_N: Ints, balanced: bool) -> Floats:
    """Weights of rows: alike, or such that all labels weigh the same."""
    if not balanced:
        return np.ones(len(labels_N))
    weights: Floats = 1.0 / np.bincount(labels_N)[labels_N]
    return weights
