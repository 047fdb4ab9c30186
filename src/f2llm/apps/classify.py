"""A classifier on the vectors of a model: learnt from labelled rows, or from the names of the labels alone.

`Classifier.train` fits a logistic head (`classify_fit.py`); `save` writes a directory: `classifier.json` (labels, the
model and its fingerprint, how it was trained), `head.skops`, `report.json`, `confusion.png`. Nothing is pickled: skops
stores the head, and loading refuses any type that is not in a list of five. A classifier refuses the vectors of another
model than its own.

`LabelNames` needs no rows: each label is described by a text or several, and a text belongs to the label whose
descriptions are nearest. Its confidences are a softmax of cosines and rank well, but are no calibrated probabilities.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from f2llm.apps import classify_fit as fitting
from f2llm.apps.classify_rows import Labelled
from f2llm.apps.encoding import TextEncoder, checked, encode_texts
from f2llm.core.errors import ConfigError, DataError, ModelError, StorageError
from f2llm.core.extras import optional
from f2llm.core.files import explained, read_json, replace_directory, write_json
from f2llm.model.vectors import Vectors, normalize

FORMAT = 1
TEMPERATURE = 0.05
"""Of the softmax over cosines, the paper's temperature of training."""
_DESCRIPTION, _HEAD = "classifier.json", "head.skops"
_TRUSTED = frozenset(
    {
        ("builtins", "dict"), ("builtins", "list"), ("builtins", "str"), ("numpy", "ndarray"),
        ("sklearn.linear_model._logistic", "LogisticRegression"),
    }
)  # fmt: skip
"""All types that a stored head is made of."""


@dataclass(frozen=True)
class Classifier:
    """A head with its labels and the encoder options and fingerprint that it belongs to.

    `encoder`: `model`, `fingerprint`, `dims`, `as_query`, `instruction`, `dim` of the encoder that made the vectors.
    """

    head: Any
    labels: tuple[str, ...]
    encoder: Mapping[str, Any]
    training: Mapping[str, Any]

    def probabilities(self, V_ND: Vectors) -> fitting.Floats:
        """[N, L] for unit vectors [N, D] of the classifier's own model."""
        return fitting.probabilities(self.head, V_ND, len(self.labels))

    def check_encoder(self, encoder: TextEncoder) -> None:
        """ModelError for an encoder of other vectors than those that the head was trained on."""
        if encoder.fingerprint != self.encoder["fingerprint"]:
            raise ModelError(
                f"the classifier was trained on vectors of {self.encoder['model']}, and {encoder.model} makes others; "
                "give its own model by --model, or train again"
            )

    def save(self, directory: Path, report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
        """Write the directory atomically; ConfigError where it holds anything else than a classifier."""
        check_out(directory)
        temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
        try:
            with explained(directory):
                temporary.mkdir(parents=True)
                optional("skops.io", "apps").dump(self.head, temporary / _HEAD)
                about = {"format": FORMAT, "labels": list(self.labels), "encoder": dict(self.encoder)}
                write_json(temporary / _DESCRIPTION, about | {"training": dict(self.training)})
                write_json(temporary / "report.json", report)
                for name, content in pictures.items():
                    (temporary / name).write_bytes(content)
                replace_directory(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def load(cls, directory: Path | str) -> Classifier:
        """From a directory; ModelError where it is none, StorageError where its head is damaged or foreign."""
        directory = Path(directory)
        try:
            about = read_json(directory / _DESCRIPTION)
            found = cls(_load_head(directory / _HEAD), tuple(about["labels"]), about["encoder"], about["training"])
            found._check(directory)
        except (DataError, KeyError, TypeError) as error:
            raise ModelError(f"{directory} is no classifier ({error}); make one: f2llm classify train") from None
        return found

    def _check(self, directory: Path) -> None:
        head, shape = self.head, (len(self.labels) if len(self.labels) > 2 else 1, self.encoder["dims"])
        if head.coef_.shape != shape or not np.isfinite(head.coef_).all() or len(head.classes_) != len(self.labels):
            raise StorageError(f"{directory}: the head does not fit its {len(self.labels)} labels; train again")


def check_out(directory: Path) -> None:
    """ConfigError where writing a classifier to `directory` would delete something else."""
    ours = (directory / _DESCRIPTION).is_file()
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir()) and not ours):
        raise ConfigError(f"--out {directory} holds other files than a classifier; choose another folder")


def _load_head(path: Path) -> Any:
    """The head in a skops file, if it is made of the five types alone."""
    io = optional("skops.io", "apps")
    try:
        schema = zipfile.ZipFile(path).read("schema.json")
        foreign = set(_types(json.loads(schema))) - _TRUSTED
        if foreign:
            raise StorageError(
                f"{path} holds the type {'.'.join(min(foreign))}, which no head is made of; do not use it"
            )
        return io.load(path, trusted=[])
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise StorageError(f"{path} is damaged ({error}); train the classifier again") from None


def _types(node: Any) -> Iterator[tuple[str, str]]:
    """(module, name) of every type that a skops schema names."""
    if isinstance(node, dict):
        if "__class__" in node:
            yield str(node.get("__module__")), str(node["__class__"])
        for value in node.values():
            yield from _types(value)
    elif isinstance(node, list):
        for value in node:
            yield from _types(value)


@dataclass(frozen=True)
class Trained:
    """A new classifier, what the folds say about it, and the rows' labels as numbers."""

    classifier: Classifier
    validation: fitting.Validation
    labels_N: fitting.Ints


def train(
    rows: Labelled, encoder: TextEncoder, *, balanced: bool = False, folds: int = fitting.FOLDS, seed: int = 0
) -> Trained:
    """A classifier of labelled rows, its regularisation chosen by cross-validation; texts are encoded once.

    `balanced` weighs all labels the same, and probabilities are then as if labels were equally frequent. DataError for
    a single label.
    """
    labels = label_names(rows)
    place = {label: number for number, label in enumerate(labels)}
    labels_N = np.array([place[label] for label in rows.labels], np.int64)
    fold_N = fitting.fold_numbers(labels_N, rows.groups, folds, seed)
    V_ND = encode_texts(encoder, rows.texts)
    validation = fitting.cross_validate(V_ND, labels_N, fold_N, len(labels), balanced)
    head = fitting.fit(V_ND, labels_N, validation.C, balanced)
    about = {
        name: getattr(encoder, name) for name in ("model", "fingerprint", "dims", "as_query", "instruction", "dim")
    }
    training = {
        "rows": len(labels_N), "C": validation.C, "balanced": balanced, "folds": validation.folds, "seed": seed,
        "most_frequent": labels[int(np.bincount(labels_N).argmax())],
    }  # fmt: skip
    return Trained(Classifier(head, labels, about, training), validation, labels_N)


def label_names(rows: Labelled) -> tuple[str, ...]:
    """The labels of rows by name; DataError where there is one alone."""
    labels = tuple(sorted(set(rows.labels)))
    if len(labels) < 2:
        raise DataError(f"all rows have the label {labels[0]!r}; give rows of at least two labels")
    return labels


class LabelNames:
    """Labels that are known by descriptions alone; `probabilities` as of a classifier."""

    def __init__(self, encoder: TextEncoder, descriptions: Mapping[str, Sequence[str]]) -> None:
        """`descriptions`: one text or several for each label, in any language; ConfigError for fewer than two."""
        if len(descriptions) < 2 or not all(descriptions.values()):
            raise ConfigError("give at least two labels, each with a name or a description")
        self.labels = tuple(descriptions)
        documents = encoder.for_documents()
        means = [checked(documents, list(texts)).mean(axis=0) for texts in descriptions.values()]
        self._labels_LD = normalize(np.array(means))

    def probabilities(self, V_ND: Vectors) -> fitting.Floats:
        """[N, L]: softmax of the cosines over a temperature of 0.05."""
        S_NL = (V_ND @ self._labels_LD.T).astype(np.float64) / TEMPERATURE
        E_NL = np.exp(S_NL - S_NL.max(axis=1, keepdims=True))
        found: fitting.Floats = E_NL / E_NL.sum(axis=1, keepdims=True)
        return found


def descriptions(names: Sequence[str], template: str = "{}", file: Path | None = None) -> dict[str, list[str]]:
    """Label -> texts that describe it: the template with its name, or what a JSON file says of it (a text or a list).

    `names` may be empty where there is a file. ConfigError for a template without {} and for a file of another form.
    """
    told = read_json(file) if file else {}
    if not isinstance(told, dict):
        raise ConfigError(f"{file}: an object is needed, of labels with a description or a list of them")
    if "{}" not in template:
        raise ConfigError(f"--template {template!r} has no place for the label; write {{}} there")
    if unknown := [name for name in names if file and name not in told]:
        raise ConfigError(f"{file} does not describe the label {unknown[0]!r}; it has {', '.join(told)}")
    found = {}
    for name in names or told:
        texts = told.get(name, name)
        texts = [texts] if isinstance(texts, str) else texts
        if (
            not isinstance(texts, list)
            or not texts
            or not all(isinstance(text, str) and text.strip() for text in texts)
        ):
            raise ConfigError(f"{file or '--labels'}: {name!r} needs a description, a text or a list of texts")
        found[name] = [template.replace("{}", text) for text in texts]
    return found
