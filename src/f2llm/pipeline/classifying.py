"""The verbs of `f2llm classify`: each loads a model, asks `apps/classify*.py`, and writes or returns a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from f2llm.apps import classify
from f2llm.apps.classify_pictures import confusion_png, transfer_png
from f2llm.apps.classify_report import label_numbers, report
from f2llm.apps.classify_rows import Columns, Labelled, predict_files, read_labelled
from f2llm.apps.classify_transfer import Transfer, transfer, usable_languages
from f2llm.apps.encoding import TextEncoder, encode_texts
from f2llm.core.files import atomic_path, write_json
from f2llm.core.log import warn
from f2llm.pipeline.build import default_model
from f2llm.pipeline.encoders import text_encoder

_SHOWN = 25  # labels in the table of a terminal


def train_classifier(
    files: Sequence[Path],
    target: Path,
    *,
    columns: Columns,
    model: str | None = None,
    instruction: str | None = None,
    dim: int | None = None,
    balanced: bool = False,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Train on labelled rows, write the classifier to `target`, return its cross-validated report."""
    classify.check_out(target)
    rows = read_labelled(files, columns)
    classify.label_names(rows)  # a single label is told before a model is read
    encoder = text_encoder(model or default_model(), instruction=instruction, dim=dim)
    found = classify.train(rows, encoder, balanced=balanced, folds=folds, seed=seed)
    judged = found.validation
    labels = found.classifier.labels
    told = report(labels, found.labels_N, judged.predicted_N, judged.confidence_N, rows.languages)
    told |= {"C": judged.C, "losses": {str(C): loss for C, loss in judged.losses.items()}, "folds": judged.folds}
    title = f"cross-validated, {len(found.labels_N):,} rows"
    found.classifier.save(target, told, {"confusion.png": confusion_png(told["confusion"], title)})
    return {"out": str(target), **told}


def load_classifier(directory: Path, model: str | None = None) -> tuple[classify.Classifier, TextEncoder]:
    """A classifier and its encoder: the model it remembers, or the same one at another place."""
    found = classify.Classifier.load(directory)
    told = found.encoder
    encoder = text_encoder(
        model or told["model"], as_query=told["as_query"], instruction=told["instruction"], dim=told["dim"]
    )
    found.check_encoder(encoder)
    return found, encoder


def predict(
    directory: Path, files: Sequence[Path], target: Path, *, model: str | None = None, **options: Any
) -> dict[str, Any]:
    """Write the predicted label of each row to `target`; options as of `predict_files`."""
    found, encoder = load_classifier(directory, model)
    counts = predict_files(found.probabilities, found.labels, encoder, files, target, **options)
    return {"out": str(target), **counts}


def evaluate_classifier(
    directory: Path, files: Sequence[Path], *, columns: Columns, model: str | None = None, picture: Path | None = None
) -> dict[str, Any]:
    """The report of a classifier on labelled rows that it was not trained on; a label it does not know is a mistake."""
    found, encoder = load_classifier(directory, model)
    rows = read_labelled(files, columns)
    return _judged(found, found.labels, encoder, rows, picture, found.training["most_frequent"])


def zero_shot(
    files: Sequence[Path],
    *,
    columns: Columns,
    descriptions: Mapping[str, Sequence[str]],
    model: str | None = None,
    instruction: str | None = None,
    dim: int | None = None,
    target: Path | None = None,
    judge: bool = False,
    picture: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Classify by descriptions of labels: predictions to `target`, and, where `judge`, a report on the rows' labels."""
    encoder = text_encoder(model or default_model(), as_query=True, instruction=instruction, dim=dim)
    known = classify.LabelNames(encoder, descriptions)
    told: dict[str, Any] = {}
    if target is not None:
        counts = predict_files(known.probabilities, known.labels, encoder, files, target, columns=columns, **options)
        told = {"out": str(target), "predicted": counts}
    if judge:
        told |= _judged(known, known.labels, encoder, read_labelled(files, columns), picture)
    return told


def _judged(
    decider: classify.Classifier | classify.LabelNames,
    known: Sequence[str],
    encoder: TextEncoder,
    rows: Labelled,
    picture: Path | None,
    most_frequent: str | None = None,
) -> dict[str, Any]:
    labels, truth_N = label_numbers(known, rows.labels)
    if strange := sorted(set(rows.labels) - set(known)):
        warn(f"{len(strange)} labels of the rows are not known, such as {strange[0]!r}; these rows count as mistakes")
    P_NL = decider.probabilities(encode_texts(encoder, rows.texts))
    guess = labels.index(most_frequent) if most_frequent is not None else None
    found = report(labels, truth_N, P_NL.argmax(axis=1), P_NL.max(axis=1), rows.languages, guess)
    if picture is not None:
        _write(picture, confusion_png(found["confusion"], f"{len(truth_N):,} rows"))
    return found


def transfer_table(
    files: Sequence[Path],
    *,
    columns: Columns,
    model: str | None = None,
    instruction: str | None = None,
    dim: int | None = None,
    target: Path | None = None,
    limit: int | None = None,
    train_on: Sequence[str] = (),
    seed: int = 0,
    **options: Any,
) -> Transfer:
    """Scores of training on each language and asking in every one; `transfer.json` and `transfer.png` below `target`.

    `limit`: at most so many rows of a language, drawn by `seed`. Other options as of `apps.classify_transfer.transfer`.
    """
    rows = read_labelled(files, columns)
    if limit is not None:
        rows = limited(rows, limit, seed)
    usable_languages(rows, train_on)  # what cannot be asked is told before a model is read
    encoder = text_encoder(model or default_model(), instruction=instruction, dim=dim)
    found = transfer(rows, encode_texts(encoder, rows.texts), train_on=train_on, seed=seed, **options)
    if target is not None:
        write_json(target / "transfer.json", {"model": encoder.model, "seed": seed, **found.to_json()})
        _write(target / "transfer.png", transfer_png(found, f"macro F1 x 100, {len(rows.texts):,} rows"))
    return found


def limited(rows: Labelled, limit: int, seed: int) -> Labelled:
    """At most `limit` rows of each language, drawn at random, in their order."""
    order = np.random.default_rng(seed).permutation(len(rows.texts)).tolist()
    kept, counts = list[int](), dict[str, int]()
    for number in order:
        language = rows.languages[number]
        counts[language] = counts.get(language, 0) + 1
        if counts[language] <= limit:
            kept.append(number)
    kept.sort()
    texts, labels, languages, groups = (
        [column[number] for number in kept] for column in (rows.texts, rows.labels, rows.languages, rows.groups)
    )
    return Labelled(texts, labels, languages, groups)


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def report_tables(told: Mapping[str, Any]) -> list[Table]:
    """A report for a terminal: languages, labels (the worst first), thresholds."""
    found = []
    if told["languages"]:
        table = _table("language", "rows", "macro F1", "accuracy", "chance: F1", "accuracy")
        for entry in told["languages"]:
            chance = entry["chance"]
            numbers = (entry["macro_f1"], entry["accuracy"], chance["macro_f1"], chance["accuracy"])
            table.add_row(escape(entry["language"]), f"{entry['rows']:,}", *map(_percent, numbers))
        found.append(table)
    labels = sorted(told["labels"], key=lambda entry: entry["f1"])
    shown = f"label (the worst {_SHOWN} of {len(labels)})" if len(labels) > _SHOWN else "label"
    table = _table(shown, "rows", "precision", "recall", "F1")
    for entry in labels[:_SHOWN]:
        table.add_row(
            escape(entry["label"]),
            f"{entry['rows']:,}",
            *(_percent(entry[name]) for name in ("precision", "recall", "f1")),
        )
    found.append(table)
    table = _table("--min-confidence", "answered", "of these right")
    for entry in told["thresholds"]:
        table.add_row(f"{entry['min_confidence']:g}", _percent(entry["answered"]), _percent(entry["accuracy"]))
    return [*found, table]


def report_line(told: Mapping[str, Any]) -> str:
    """The scores in one sentence, with chance beside them."""
    chance = told["chance"]
    return (
        f"{told['rows']:,} rows: accuracy {_percent(told['accuracy'])}, macro F1 {_percent(told['macro_f1'])} "
        f"(chance, always {escape(repr(chance['label']))}: {_percent(chance['accuracy'])}, "
        f"{_percent(chance['macro_f1'])}); calibration error {told['calibration_error'] * 100:.1f}"
    )


def transfer_view(found: Transfer) -> Table:
    """Macro F1 of each source (rows) in each language (columns), their mean, and chance; whole numbers, to fit."""
    table = _table("F1 x 100", *found.languages, "mean")
    chance = [entry["macro_f1"] for entry in found.chance]
    for source, values in zip([*found.sources, "chance"], [*found.macro_f1, chance], strict=True):
        table.add_row(escape(source), *(f"{value * 100:.0f}" for value in [*values, float(np.mean(values))]))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.1f}"
