"""Classifiers learn what the vectors tell, say how sure they are, and refuse what is not theirs."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from f2llm.apps import classify, classify_fit
from f2llm.apps.classify import Classifier, LabelNames, Trained, descriptions
from f2llm.apps.classify_pictures import confusion_png, transfer_png
from f2llm.apps.classify_report import calibration_error, label_numbers, report
from f2llm.apps.classify_rows import UNKNOWN, Columns, Labelled, predict_files, read_labelled
from f2llm.apps.classify_transfer import ALL, OTHERS, transfer
from f2llm.apps.encoding import encode_texts
from f2llm.core.errors import ConfigError, DataError, ModelError, StorageError
from tests.apps.encoders import DIMS, word_encoder, word_vectors

WORDS = {"good": "lovely fine great warm", "bad": "awful cold broken sad", "so-so": "middling plain usual grey"}


def sentences(count: int, seed: int = 0, tongue: str = "") -> Labelled:
    """Rows of three labels; each text has two words of its label and three that say nothing."""
    draw = np.random.default_rng(seed)
    texts, labels = [], []
    for number in range(count):
        label = list(WORDS)[number % 3]
        words = [*draw.choice(WORDS[label].split(), 2), *(f"w{draw.integers(60)}" for _ in range(3))]
        texts.append(" ".join([*draw.permutation(words), f"n{number}"]))
        labels.append(label)
    return Labelled(texts, labels, [tongue] * count, [f"{number}" for number in range(count)])


@pytest.fixture(scope="module")
def trained() -> Trained:
    return classify.train(sentences(150), word_encoder())


@pytest.fixture
def saved(trained: Trained, tmp_path: Path) -> Path:
    trained.classifier.save(tmp_path / "classifier", {"accuracy": 1.0}, {"confusion.png": b"png"})
    return tmp_path / "classifier"


def told(found: Trained, rows: Labelled) -> dict[str, object]:
    judged = found.validation
    return report(found.classifier.labels, found.labels_N, judged.predicted_N, judged.confidence_N, rows.languages)


def test_the_folds_tell_what_other_rows_confirm(trained: Trained) -> None:
    judged = told(trained, sentences(150))
    others = sentences(300, seed=9)
    P_NL = trained.classifier.probabilities(word_vectors(others.texts))
    _, truth_N = label_numbers(trained.classifier.labels, others.labels)
    fresh = report(trained.classifier.labels, truth_N, P_NL.argmax(axis=1), P_NL.max(axis=1))
    assert fresh["accuracy"] > 0.75 > 0.4 > fresh["chance"]["accuracy"]
    assert abs(judged["accuracy"] - fresh["accuracy"]) < 0.12
    assert fresh["calibration_error"] < 0.15
    assert np.allclose(P_NL.sum(axis=1), 1)


def test_labels_without_meaning_are_at_chance(trained: Trained) -> None:
    rows = sentences(150)
    shuffled = replace(rows, labels=list(np.random.default_rng(1).permutation(rows.labels)))
    judged = told(classify.train(shuffled, word_encoder()), shuffled)
    assert judged["accuracy"] < 0.45
    assert judged["calibration_error"] < 0.15, "who knows nothing is not sure of it"


def test_training_is_reproducible(trained: Trained) -> None:
    again = classify.train(sentences(150), word_encoder())
    assert np.array_equal(again.classifier.head.coef_, trained.classifier.head.coef_)
    assert again.validation.losses == trained.validation.losses


def test_a_text_that_comes_twice_is_in_one_fold() -> None:
    labels_N = np.arange(60) % 2
    fold_N = classify_fit.fold_numbers(labels_N, [f"{number // 4}" for number in range(60)], 5, 0)
    assert all(len(set(fold_N[start : start + 4])) == 1 for start in range(0, 60, 4))
    assert sorted(set(fold_N)) == [0, 1, 2, 3, 4]


def test_no_row_is_judged_by_a_head_that_has_seen_it() -> None:
    """Random vectors and labels, each row four times: only a leak could know them."""
    draw = np.random.default_rng(3)
    texts = [" ".join(f"r{draw.integers(10**9)}" for _ in range(3)) for _ in range(60)] * 4
    labels = [str(label) for label in draw.integers(2, size=60)] * 4
    found = classify.train(Labelled(texts, labels, [""] * 240, texts), word_encoder())
    assert (found.validation.predicted_N == found.labels_N).mean() < 0.7


def test_balanced_weights_help_the_rare_label() -> None:
    rows = sentences(240)
    rare = [n for n, label in enumerate(rows.labels) if label != "bad" or n % 24 == 1]
    few = Labelled(*([column[n] for n in rare] for column in (rows.texts, rows.labels, rows.languages, rows.groups)))
    recall = {}
    for balanced in (False, True):
        labels = told(classify.train(few, word_encoder(), balanced=balanced), few)["labels"]
        recall[balanced] = next(entry["recall"] for entry in labels if entry["label"] == "bad")
    assert recall[True] > recall[False]


def test_too_few_rows_or_labels() -> None:
    with pytest.raises(DataError, match="all rows have the label 'good'"):
        classify.train(replace(sentences(9), labels=["good"] * 9), word_encoder())
    with pytest.raises(DataError, match="1 distinct texts are too few"):
        classify.train(Labelled(["a", "a"], ["x", "y"], ["", ""], ["a", "a"]), word_encoder())
    with pytest.raises(DataError, match="only one label to learn from"):
        classify.train(Labelled(["a", "b"], ["x", "y"], ["", ""], ["a", "b"]), word_encoder())
    lonely = sentences(31)
    lonely.labels[30] = "once"
    assert "once" in classify.train(lonely, word_encoder()).classifier.labels


# ---- the directory


def test_a_saved_classifier_gives_the_same_probabilities(trained: Trained, saved: Path) -> None:
    V_ND = word_vectors(sentences(20, seed=5).texts)
    again = Classifier.load(saved)
    assert np.array_equal(again.probabilities(V_ND), trained.classifier.probabilities(V_ND))
    assert again.labels == trained.classifier.labels
    assert sorted(path.name for path in saved.iterdir()) == [
        "classifier.json", "confusion.png", "head.skops", "report.json",
    ]  # fmt: skip


def test_another_model_is_refused(trained: Trained) -> None:
    trained.classifier.check_encoder(word_encoder())
    with pytest.raises(ModelError, match="trained on vectors of word-model"):
        trained.classifier.check_encoder(word_encoder("another"))


def _foreign_type(saved: Path) -> None:
    schema = json.loads(zipfile.ZipFile(saved / "head.skops").read("schema.json"))
    schema["content"]["content"]["C"] = {
        "__class__": "system", "__module__": "os", "__loader__": "FunctionNode", "__id__": 1, "content": "",
    }  # fmt: skip
    _rewrite(saved, json.dumps(schema))


def _other_shape(saved: Path) -> None:
    about = json.loads((saved / "classifier.json").read_text())
    (saved / "classifier.json").write_text(json.dumps(about | {"labels": [*about["labels"], "more"]}))


def _rewrite(saved: Path, schema: str) -> None:
    with zipfile.ZipFile(saved / "head.skops") as old:
        arrays = {name: old.read(name) for name in old.namelist() if name != "schema.json"}
    with zipfile.ZipFile(saved / "head.skops", "w") as new:
        for name, content in (arrays | {"schema.json": schema.encode()}).items():
            new.writestr(name, content)


DAMAGES: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "foreign type": (_foreign_type, StorageError, "holds the type os.system"),
    "no zip": (lambda saved: (saved / "head.skops").write_bytes(b"PK"), StorageError, "is damaged"),
    "broken schema": (lambda saved: _rewrite(saved, '{"a": '), StorageError, "is damaged"),
    "no head": (lambda saved: (saved / "head.skops").unlink(), ModelError, "is no classifier"),
    "no description": (lambda saved: (saved / "classifier.json").unlink(), ModelError, "is no classifier"),
    "empty description": (lambda saved: (saved / "classifier.json").write_text("{}"), ModelError, "is no classifier"),
    "other labels": (_other_shape, StorageError, "does not fit its 4 labels"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_classifier_is_one_sentence(damage: str, saved: Path) -> None:
    spoil, error, words = DAMAGES[damage]
    spoil(saved)
    with pytest.raises(error, match=words):
        Classifier.load(saved)


def test_other_files_are_never_replaced(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="other files than a classifier"):
        trained.classifier.save(tmp_path, {}, {})
    assert (tmp_path / "mine.txt").read_text() == "mine"


# ---- files


def write_csv(path: Path, rows: Labelled, blank: bool = False) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["id", "review", "mood", "lang"])
        out.writerows(zip(rows.groups, rows.texts, rows.labels, rows.languages, strict=True))
        if blank:
            out.writerows([["x", "no label", "", ""], ["y", " ", "good", ""]])
    return path


def test_rows_without_text_or_label_are_left_out(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", sentences(6, tongue="eng"), blank=True)
    found = read_labelled([path], Columns("review", "mood", "lang", "id"))
    assert found == sentences(6, tongue="eng")
    with pytest.raises(DataError, match=r"no column label; columns: id, review, mood, lang"):
        read_labelled([path], Columns("review"))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_predictions_keep_the_order_and_the_columns(ending: str, trained: Trained, tmp_path: Path) -> None:
    rows = sentences(30, seed=4)
    path, target = write_csv(tmp_path / "a.csv", rows, blank=True), tmp_path / f"out.{ending}"
    head, columns = trained.classifier, Columns("review")
    counts = predict_files(
        head.probabilities, head.labels, word_encoder(), [path], target, columns=columns, keep=["id", "mood"],
        min_confidence=0.6, all_probabilities=True,
    )  # fmt: skip
    if ending == "parquet":
        found = pq.read_table(target).to_pylist()
    elif ending == "jsonl":
        found = [json.loads(line) for line in target.read_text().splitlines()]
    else:
        with target.open() as file:
            found = list(csv.DictReader(file))
    assert [row["text"] for row in found] == [*rows.texts, "no label"]
    assert [int(row["line"]) for row in found] == list(range(2, 33))
    assert [row["mood"] for row in found] == [*rows.labels, ""]
    sure = [float(row["confidence"]) >= 0.6 for row in found]
    assert 0 < sum(sure) < len(sure)
    assert [row["predicted"] != UNKNOWN for row in found] == sure
    assert [max(float(row[f"p:{label}"]) for label in head.labels) for row in found] == pytest.approx(
        [float(row["confidence"]) for row in found], abs=1e-6
    )
    assert counts["rows"] == 31
    assert counts["labels"][UNKNOWN] == 31 - sum(sure)


def test_options_of_the_output(trained: Trained, tmp_path: Path) -> None:
    head, path = trained.classifier, write_csv(tmp_path / "a.csv", sentences(3))
    args = (head.probabilities, head.labels, word_encoder(), [path])
    with pytest.raises(ConfigError, match=r"must end in \.parquet, \.csv or \.jsonl"):
        predict_files(*args, tmp_path / "out.txt", columns=Columns("review"))
    (tmp_path / "b.csv").write_text("text,line\na,1\n")
    with pytest.raises(ConfigError, match="--keep line: the output has a column of this name"):
        predict_files(*args[:3], [tmp_path / "b.csv"], tmp_path / "out.csv", columns=Columns(), keep=["line"])
    assert not (tmp_path / "out.csv").exists()


# ---- without training


def test_label_names_alone() -> None:
    known = LabelNames(word_encoder(), {label: words.split() for label, words in WORDS.items()})
    rows = sentences(90)
    P_NL = known.probabilities(encode_texts(word_encoder(), rows.texts))
    right = [known.labels[best] == label for best, label in zip(P_NL.argmax(axis=1), rows.labels, strict=True)]
    assert np.mean(right) > 0.7
    assert np.allclose(P_NL.sum(axis=1), 1)


def test_descriptions(tmp_path: Path) -> None:
    assert descriptions(["a", "b"], "about {}") == {"a": ["about a"], "b": ["about b"]}
    file = tmp_path / "labels.json"
    file.write_text('{"a": "one", "b": ["two", "three"], "c": "four"}')
    assert descriptions([], "{}!", file) == {"a": ["one!"], "b": ["two!", "three!"], "c": ["four!"]}
    assert list(descriptions(["c", "a"], "{}", file)) == ["c", "a"]
    with pytest.raises(ConfigError, match="has no place for the label"):
        descriptions(["a"], "about")
    with pytest.raises(ConfigError, match="does not describe the label 'd'"):
        descriptions(["d"], "{}", file)
    file.write_text('{"a": []}')
    with pytest.raises(ConfigError, match="'a' needs a description"):
        descriptions([], "{}", file)
    with pytest.raises(ConfigError, match="at least two labels"):
        LabelNames(word_encoder(), {"a": ["x"]})


# ---- languages


def translations(groups: bool) -> Labelled:
    """Two languages with the same words and one with others, row by row the same labels."""
    first, second = sentences(90, tongue="aaa"), sentences(90, seed=1, tongue="bbb")
    third = sentences(90, seed=2, tongue="ccc")
    third = replace(third, texts=[" ".join(f"{word}x" for word in text.split()) for text in third.texts])
    columns = [
        [*a, *b, *c] for a, b, c in zip(vars(first).values(), vars(second).values(), vars(third).values(), strict=True)
    ]
    return Labelled(*columns[:3], columns[3] if groups else columns[0])


def test_transfer_carries_over_where_the_words_are_common() -> None:
    rows = translations(groups=True)
    found = transfer(rows, word_vectors(rows.texts), folds=3)
    assert (found.sources, found.languages) == (["aaa", "bbb", "ccc", OTHERS, ALL], ["aaa", "bbb", "ccc"])
    own = dict(zip(found.sources, found.macro_f1, strict=True))
    assert min(own["aaa"][0], own["aaa"][1], own["bbb"][0], own["ccc"][2]) > 0.65
    assert max(own["aaa"][2], own["ccc"][0], own[OTHERS][2]) < 0.5
    assert [chance["accuracy"] for chance in found.chance] == pytest.approx([1 / 3] * 3)
    assert transfer_png(found, "title").startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="no rows to train on in 'zzz'"):
        transfer(rows, word_vectors(rows.texts), train_on=["zzz"])


def test_the_same_text_in_another_language_is_not_asked() -> None:
    """Every text means its label by chance, and all languages have the same: only a leak could know it."""
    draw = np.random.default_rng(5)
    texts = [f"r{draw.integers(10**9)} r{draw.integers(10**9)}" for _ in range(60)]
    labels = [str(label) for label in draw.integers(2, size=60)]
    rows = Labelled(texts * 2, labels * 2, ["aaa"] * 60 + ["bbb"] * 60, texts * 2)
    found = transfer(rows, word_vectors(rows.texts))
    assert max(max(line) for line in found.accuracy) < 0.75


def test_too_few_languages() -> None:
    rows = sentences(60, tongue="aaa")
    with pytest.raises(DataError, match="1 languages have 20 rows"):
        transfer(rows, word_vectors(rows.texts))


# ---- reports and pictures


def test_a_report_by_hand() -> None:
    truth, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    found = report(["x", "y"], truth, predicted, np.array([0.9, 0.8, 0.55, 0.95]), ["a", "a", "b", "b"])
    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert found["chance"] == {"label": "x", "accuracy": 0.75, "macro_f1": pytest.approx(3 / 7)}
    assert found["confusion"]["counts"] == [[2, 1], [0, 1]]
    assert [entry["language"] for entry in found["languages"]] == ["a", "b"]
    assert found["languages"][1]["accuracy"] == 0.5
    assert found["thresholds"][2] == {"min_confidence": 0.7, "answered": 0.75, "accuracy": 1.0}


def test_calibration_error() -> None:
    right = np.array([True] * 7 + [False] * 3)
    assert calibration_error(right, np.full(10, 0.7)) == pytest.approx(0)
    assert calibration_error(right, np.full(10, 0.95)) == pytest.approx(0.25)


@pytest.mark.parametrize("labels", [2, 30, 77])
def test_confusion_pictures_of_any_size(labels: int) -> None:
    counts = np.eye(labels, dtype=int) * 5 + 1
    names = [f"label {number}" for number in range(labels)]
    assert confusion_png({"labels": names, "counts": counts.tolist()}, "title").startswith(b"\x89PNG")


def test_vectors_that_are_no_numbers_are_refused() -> None:
    broken = replace(word_encoder(), encode=lambda texts: np.full((len(texts), DIMS), np.nan, np.float32))
    with pytest.raises(ModelError, match="a vector with NaN for 'a'"):
        encode_texts(broken, ["a"])
