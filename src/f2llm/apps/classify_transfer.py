"""Trained on one language, asked in the others: what a multilingual model is for, as one table.

For each language a head is trained on its rows alone; one on all languages but the one that is asked (`all others`),
and one on all. Rows of a group are never trained on and asked: where files are translations of each other, the group is
what they have in common, or the table would measure memory. Every row is asked once, by heads that have not seen its
fold. Cost: (languages + folds x (2 x languages + 1)) small fits; texts are encoded once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from f2llm.apps import classify_fit as fitting
from f2llm.apps.classify_report import label_numbers, scores
from f2llm.apps.classify_rows import Labelled
from f2llm.core.errors import ConfigError, DataError
from f2llm.core.log import Bar, warn
from f2llm.model.vectors import Vectors

OTHERS, ALL = "all others", "all"
_SHOWN = 10  # names in a warning
LEAST_ROWS = 20
"""A language of fewer rows is left out, for its scores would say nothing."""


@dataclass(frozen=True)
class Transfer:
    """Scores of heads trained on `sources` [S] and asked in `languages` [L]: macro F1 and accuracy, S x L.

    `chance`: macro F1 and accuracy in each language of its own most frequent label; `rows`: how many each has.
    """

    sources: list[str]
    languages: list[str]
    macro_f1: list[list[float]]
    accuracy: list[list[float]]
    chance: list[dict[str, float]]
    rows: list[int]

    def to_json(self) -> dict[str, Any]:
        return vars(self)


def transfer(
    rows: Labelled,
    V_ND: Vectors,
    *,
    train_on: Iterable[str] = (),
    balanced: bool = False,
    folds: int = fitting.FOLDS,
    seed: int = 0,
) -> Transfer:
    """Train on each language (or those of `train_on`), on all others and on all; ask in every language.

    DataError for fewer than two languages of at least 20 rows, ConfigError for one in `train_on` that is not there.
    """
    tags = np.asarray(rows.languages, dtype=object)
    languages, small = usable_languages(rows, train_on)
    kept, chosen = np.isin(tags, languages), list(train_on) or languages
    if small:
        shown = ", ".join(small[:_SHOWN]) + (f" and {len(small) - _SHOWN:,} more" if len(small) > _SHOWN else "")
        warn(f"{shown}: left out, for they have fewer than {LEAST_ROWS} rows or a single label")
    _, labels_N = label_numbers(sorted(set(rows.labels)), rows.labels)
    # Strata of label and language: every language has its share of each fold.
    strata = label_numbers((), [f"{tag}\0{label}" for tag, label in zip(tags, rows.labels, strict=True)])[1]
    fold_N = fitting.fold_numbers(strata, rows.groups, folds, seed)
    heads = _Heads(V_ND, labels_N, fold_N, balanced)
    own = {name: kept & (tags == name) for name in languages}
    with Bar("training on each language", len(chosen) + len(languages) + 1) as bar:
        predicted = {}
        for name in chosen:
            predicted[name] = heads.predict(own[name], kept)
            bar.advance()
        predicted[OTHERS] = np.zeros_like(labels_N)
        for name in languages:
            predicted[OTHERS][own[name]] = heads.predict(kept & ~own[name], own[name])[own[name]]
            bar.advance()
        predicted[ALL] = heads.predict(kept, kept)
        bar.advance()
    measured = {
        source: [scores(labels_N[own[name]], found[own[name]]) for name in languages]
        for source, found in predicted.items()
    }
    return Transfer(
        list(measured), languages,
        [[cell["macro_f1"] for cell in line] for line in measured.values()],
        [[cell["accuracy"] for cell in line] for line in measured.values()],
        [_chance(labels_N[own[name]]) for name in languages],
        [int(own[name].sum()) for name in languages],
    )  # fmt: skip


def usable_languages(rows: Labelled, train_on: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """The languages with enough rows and two labels, by name, and the others; errors as of `transfer`."""
    found, small = list[str](), list[str]()
    own: dict[str, list[str]] = {}
    for name, label in zip(rows.languages, rows.labels, strict=True):
        own.setdefault(name, []).append(label)
    for name in sorted(own.keys() - {""}):
        (found if len(own[name]) >= LEAST_ROWS and len(set(own[name])) > 1 else small).append(name)
    if len(found) < 2:
        raise DataError(f"{len(found)} languages have {LEAST_ROWS} rows and two labels; give at least two, by --lang")
    if absent := [name for name in train_on if name not in found]:
        raise ConfigError(f"there are no rows to train on in {absent[0]!r}; languages: {', '.join(found)}")
    return found, small


def _chance(labels_N: fitting.Ints) -> dict[str, float]:
    return scores(labels_N, np.full_like(labels_N, int(np.bincount(labels_N).argmax())))


class _Heads:
    """Heads trained on some rows and asked about others, fold by fold."""

    def __init__(self, V_ND: Vectors, labels_N: fitting.Ints, fold_N: fitting.Ints, balanced: bool) -> None:
        self.V_ND, self.labels_N, self.fold_N, self.balanced = V_ND, labels_N, fold_N, balanced

    def predict(self, train_N: Any, asked_N: Any) -> fitting.Ints:
        """Label numbers [N]; only rows of `asked_N` mean something. C is chosen on the training rows alone."""
        own = np.flatnonzero(train_N)
        C = fitting.cross_validate(
            self.V_ND[own], self.labels_N[own], self.fold_N[own], int(self.labels_N.max()) + 1, self.balanced
        ).C
        found = np.zeros_like(self.labels_N)
        for fold in np.unique(self.fold_N[asked_N]):
            rows, learnt = np.flatnonzero(asked_N & (self.fold_N == fold)), train_N & (self.fold_N != fold)
            head = fitting.fit(self.V_ND[learnt], self.labels_N[learnt], C, self.balanced)
            found[rows] = head.predict(self.V_ND[rows])
        return found
