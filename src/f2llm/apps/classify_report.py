"""How good a classifier is: scores by label and language, confusions, calibration, what a threshold costs.

A report is a JSON object of plain numbers, the same for folds, for other rows and for label names. Beside the scores
stands chance: what always answering the most frequent label would reach. Macro F1 is the mean over the labels that
the rows have; `calibration_error` the mean distance of confidence and accuracy over ten bins (Guo et al. 2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from f2llm.apps.classify_fit import Floats, Ints
from f2llm.core.extras import optional

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_BINS = 10


def report(
    labels: Sequence[str],
    truth_N: Ints,
    predicted_N: Ints,
    confidence_N: Floats,
    languages: Sequence[str] = (),
    most_frequent: int | None = None,
) -> dict[str, Any]:
    """Scores of predictions; label numbers stand for `labels`.

    `most_frequent`: the label that chance answers (default: that of the rows themselves, which is the stricter one).
    """
    guess = int(np.bincount(truth_N).argmax()) if most_frequent is None else most_frequent
    guessed_N = np.full_like(truth_N, guess)
    found = {
        "rows": len(truth_N), **scores(truth_N, predicted_N),
        "chance": {"label": labels[guess], **scores(truth_N, guessed_N)},
        "calibration_error": calibration_error(truth_N == predicted_N, confidence_N),
        "labels": _by_label(labels, truth_N, predicted_N),
        "languages": _by_language(languages, truth_N, predicted_N, guessed_N),
        "thresholds": _thresholds(truth_N == predicted_N, confidence_N),
        "confusion": {"labels": list(labels), "counts": confusion(truth_N, predicted_N, len(labels)).tolist()},
    }  # fmt: skip
    return found


def scores(truth_N: Ints, predicted_N: Ints) -> dict[str, float]:
    """Accuracy, and the mean F1 over the labels that there are."""
    f1 = optional("sklearn.metrics", "apps").f1_score
    macro = f1(truth_N, predicted_N, labels=np.unique(truth_N), average="macro", zero_division=0)
    return {"accuracy": float((truth_N == predicted_N).mean()), "macro_f1": float(macro)}


def confusion(truth_N: Ints, predicted_N: Ints, labels: int) -> Ints:
    """Counts [labels, labels]: row the true label, column the predicted one."""
    counts: Ints = np.bincount(truth_N * labels + predicted_N, minlength=labels * labels).reshape(labels, labels)
    return counts


def calibration_error(right_N: Any, confidence_N: Floats) -> float:
    """Expected calibration error over ten bins of equal width, 0 to 1."""
    bins = np.minimum((confidence_N * _BINS).astype(int), _BINS - 1)
    gaps = [
        abs(right_N[bins == b].mean() - confidence_N[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)
    ]
    return float(sum(gaps))


def _by_label(labels: Sequence[str], truth_N: Ints, predicted_N: Ints) -> list[dict[str, Any]]:
    measure = optional("sklearn.metrics", "apps").precision_recall_fscore_support
    columns = measure(truth_N, predicted_N, labels=np.arange(len(labels)), zero_division=0)
    return [
        {"label": label, "precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
        for label, p, r, f, n in zip(labels, *columns, strict=True)
        if n
    ]


def _by_language(languages: Sequence[str], truth_N: Ints, predicted_N: Ints, guessed_N: Ints) -> list[dict[str, Any]]:
    """One entry a language, the best macro F1 first; none without languages."""
    names = np.asarray(languages, dtype=object)
    found = []
    for name in sorted(set(languages) - {""}):
        rows = np.flatnonzero(names == name)
        chance = scores(truth_N[rows], guessed_N[rows])
        found.append(
            {"language": name, "rows": len(rows), **scores(truth_N[rows], predicted_N[rows]), "chance": chance}
        )
    return sorted(found, key=lambda entry: -entry["macro_f1"])


def _thresholds(right_N: Any, confidence_N: Floats) -> list[dict[str, Any]]:
    """For each threshold: the share of rows that get a label, and how many of these are right (None for no row)."""
    found = []
    for threshold in THRESHOLDS:
        sure = confidence_N >= threshold
        accuracy = float(right_N[sure].mean()) if sure.any() else None
        found.append({"min_confidence": threshold, "answered": float(sure.mean()), "accuracy": accuracy})
    return found


def label_numbers(known: Sequence[str], given: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    """All labels, the known ones first, and the numbers of the given ones."""
    labels = tuple(dict.fromkeys([*known, *given]))
    place: Mapping[str, int] = {label: number for number, label in enumerate(labels)}
    return labels, np.array([place[label] for label in given], np.int64)
