"""The command line as a user meets it: help with examples, only JSON where asked for, one sentence for a mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from f2llm.cli import main

COMMANDS = (
    "build", "index", "search", "embed", "doctor", "sizes", "prune", "trim", "merge", "export", "cluster"
)  # fmt: skip
LINES = ["Good morning", "bonjour", "def add(a, b): return a + b", "Good morning", "", "доброе утро"]


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`f2llm ARGUMENTS` in its own process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "f2llm", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


Here = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """`f2llm ARGUMENTS` in this process: its exit code, and what it wrote to the two outputs; seconds faster."""

    def call(*arguments: str, cwd: Path) -> tuple[int, str, str]:
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr(sys, "argv", ["f2llm", *arguments])
        monkeypatch.setattr("f2llm.cli.tune_allocator", lambda: True)
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(LINES), encoding="utf-8")
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, tmp_path: Path) -> None:
    done = run(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"Example: f2llm {command}" in done.stdout


def test_search_prints_hits_or_json(model_directory: Path, texts: Path) -> None:
    arguments = ("search", "bonjour", "--in", texts, "--model", model_directory, "--instruction", "")
    done = run(*arguments, cwd=texts.parent)
    assert done.returncode == 0
    assert done.stdout.index("1.000  bonjour") < done.stdout.index("Good morning")
    found = json.loads(run(*arguments, "--json", "--top", "2", cwd=texts.parent).stdout)
    hits = found["results"][0]["hits"]
    assert hits[0]["text"] == "bonjour"
    assert (len(hits), hits[0]["line"], found["passages"]) == (2, 2, 5)


def test_an_index_is_made_searched_and_left_alone(model_directory: Path, texts: Path) -> None:
    def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return run(*arguments, "--db", "my.db", cwd=texts.parent)

    done = command("index", texts, "--by-line", "--model", model_directory)
    assert done.returncode == 0, done.stderr
    assert "1 file added" in done.stdout
    again = json.loads(command("index", texts, "--json").stdout)
    assert (again["unchanged"], again["embedded"], again["passages"]) == (1, 0, 5)
    done = command("search", "bonjour", "--explain", "--mode", "hybrid")
    assert "texts.txt:2" in done.stdout
    assert done.stdout.index("shortlist") < done.stdout.index("rerank")
    found = json.loads(command("search", "доброе утро", "--json", "--mode", "text").stdout)["results"][0]["hits"]
    assert [(hit["position"], hit["words"]) for hit in found] == [(6, ["доброе", "утро"])]
    wrong = command("search", "x", "--where", "yer > 1")
    assert wrong.returncode == 2
    assert "there is no column yer; there are text, language" in " ".join(wrong.stderr.split())
    assert "39" in command("index").stdout


def test_embed_writes_vectors_beside_their_texts(model_directory: Path, texts: Path) -> None:
    target = texts.parent / "vectors.parquet"
    done = run("embed", texts, "--out", target, "--model", model_directory, "--dim", "16", "--json", cwd=texts.parent)
    summary = json.loads(done.stdout)
    assert (summary["texts"], summary["dims"], summary["truncated"]) == (5, 16, 0)
    table = pq.read_table(target).to_pydict()
    assert table["text"] == [line for line in LINES if line]
    assert table["line"] == [1, 2, 3, 4, 6]
    np.testing.assert_allclose(np.linalg.norm(table["vector"], axis=1), 1, atol=1e-6)
    queries = texts.parent / "queries.npy"
    assert run("embed", texts, "--out", queries, "-m", model_directory, "--query", cwd=texts.parent).returncode == 0
    assert np.load(queries).shape == (5, 48)


def test_doctor(model_directory: Path, tmp_path: Path) -> None:
    assert run("doctor", model_directory, cwd=tmp_path).returncode == 0
    import shutil

    broken = Path(shutil.copytree(model_directory, tmp_path / "broken"))
    (broken / "1_Pooling" / "config.json").unlink()
    done = run("doctor", broken, "--json", cwd=tmp_path)
    assert done.returncode == 4
    report = json.loads(done.stdout)
    assert not report["healthy"]
    assert [entry["check"] for entry in report["findings"] if not entry["ok"]] == ["pooling"]


def test_prune(model_directory: Path, texts: Path) -> None:
    arguments = ("prune", model_directory, "--to", "mlp=40,layers=2", "--calibration", texts, "--out", "small")
    done = run(*arguments, cwd=texts.parent)
    assert done.returncode == 0, done.stderr
    assert "not a finished model" in done.stdout
    [model] = json.loads(run(*arguments, "--json", "--depth", "influence", cwd=texts.parent).stdout)["models"]
    assert (model["mlp"], model["layers"], model["hidden"]) == (40, 2, 48)
    assert run("doctor", "small", cwd=texts.parent).returncode == 0


def test_trim(model_directory: Path, texts: Path) -> None:
    arguments = ("trim", model_directory, "--corpus", texts, "--coverage", "1", "--out", "trimmed")
    report = json.loads(run(*arguments, "--json", cwd=texts.parent).stdout)
    assert report["tokens_after"] < report["tokens_before"]
    assert report["tokens_per_character"]["texts"][0] == report["tokens_per_character"]["texts"][1]
    done = run("trim", model_directory, "--languages", "rus", "--out", "cyrillic", cwd=texts.parent)
    assert done.returncode == 0, done.stderr
    assert "rus_Cyrl" in done.stdout
    assert run("doctor", "cyrillic", cwd=texts.parent).returncode == 0


def test_merge(model_directory: Path, texts: Path) -> None:
    arguments = ("merge", model_directory, model_directory, "--weights", "3,1", "--out", "merged")
    report = json.loads(run(*arguments, "--json", cwd=texts.parent).stdout)
    assert report["weights"] == [0.75, 0.25]
    assert run("doctor", "merged", cwd=texts.parent).returncode == 0


def test_cluster(model_directory: Path, texts: Path) -> None:
    arguments = ("cluster", texts, "--model", model_directory, "--clusters", "2")
    facts = json.loads(run(*arguments, "--json", cwd=texts.parent).stdout)
    assert (facts["out"], facts["rows"], len(facts["clusters"])) == ("clusters", 5, 2)
    assert pq.read_table(texts.parent / "clusters" / "clusters.parquet")["row"].to_pylist() == [1, 2, 3, 4, 6]
    done = run(*arguments, "--identify", "--map-rows", "0", cwd=texts.parent)
    assert done.returncode == 0, done.stderr
    assert "5 rows in 2 clusters" in " ".join(done.stdout.split())
    assert "the report: clusters/report.html" in " ".join(done.stdout.split())


def test_sizes(tmp_path: Path) -> None:
    rows = json.loads(run("sizes", "--json", cwd=tmp_path).stdout)["sizes"]
    assert [row["name"] for row in rows] == ["80M", "160M", "330M", "0.6B", "1.7B", "4B", "8B", "14B"]
    assert run("sizes", cwd=tmp_path).stdout.count("\n") >= 9


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("build", "no.toml"), 2, "cannot read the recipe no.toml"),
        (("build", "texts.txt"), 2, "is not valid TOML"),
        (("search", "a", "--in", "nowhere", "-m", "MODEL"), 3, "nowhere does not exist"),
        (("search", "a", "--in", "texts.txt"), 1, "no model was named and none was built here"),
        (("search", "a", "--in", "texts.txt", "-m", "texts.txt"), 4, "texts.txt"),
        (("search", " ", "--in", "texts.txt", "-m", "MODEL"), 3, "a query is empty"),
        (("search", "a", "--in", "texts.txt", "-m", "MODEL", "--dim", "99"), 2, "give 1 to 48"),
        (("search", "a"), 2, "give either --in FILE"),
        (("search", "a", "--in", "texts.txt", "--lang", "deu"), 2, "--lang needs an index"),
        (("search", "a", "--db", "no.db"), 3, "there is no index at no.db; make one"),
        (("search", "a", "--db", "no.db", "--dim", "8"), 2, "an index has its dimensions"),
        (("index", "nowhere", "--db", "i.db", "-m", "MODEL"), 3, "nowhere does not exist"),
        (("embed", "texts.txt", "--out", "x.csv", "-m", "MODEL"), 2, "must end in .parquet or .npy"),
        (("embed", "texts.txt", "--out", "texts.txt/x.npy", "-m", "MODEL"), 5, "cannot write texts.txt/x.npy"),
        (("doctor", "nowhere"), 4, "is no directory"),
        (("prune", "MODEL", "--to", "mlp=9000", "--calibration", "texts.txt", "--out", "p"), 2, "outside 1 to 80"),
        (("prune", "MODEL", "--to", "mlp=40", "--calibration", "none.txt", "--out", "p"), 3, "none.txt is no file"),
        (
            ("prune", "MODEL", "--to", "mlp=40", "--calibration", "texts.txt", "--out", "p", "--importance", "l3"),
            2,
            "--importance l3: give one of l1",
        ),
        (("trim", "MODEL", "--out", "t"), 2, "give --languages, --corpus"),
        (("trim", "MODEL", "--languages", "klingon", "--out", "t"), 2, "no language 'klingon'"),
        (("merge", "MODEL", "--out", "m"), 2, "at least two"),
        (("export", "MODEL", "--to", "tflite", "--out", "e"), 2, "--to tflite: give one of onnx, openvino, gguf"),
        (("export", "MODEL", "--to", "onnx", "--out", "MODEL"), 2, "would replace the input"),
        (("cluster", "nowhere.csv", "-m", "MODEL"), 3, "there is no file nowhere.csv"),
        (("cluster", "texts.txt", "--lang", "language", "-m", "MODEL"), 2, "has no column language"),
        (("cluster", "texts.txt", "--clusters", "many", "-m", "MODEL"), 2, "a number of at least 1, or auto"),
        (
            ("cluster", "texts.txt", "--clusters", "6", "-m", "MODEL"),
            2,
            "more than the 4 different texts of the file; give at most 4",
        ),
        (("cluster", "texts.txt", "--method", "dbscan", "-m", "MODEL"), 2, "give kmeans or hdbscan"),
        (("cluster", "texts.txt", "--colour", "language", "-m", "MODEL"), 2, "--lang COLUMN or --identify"),
        (("frobnicate",), 2, "No such command"),
    ],
)
def test_a_mistake_is_one_sentence_and_a_code(
    arguments: tuple[str, ...], code: int, words: str, texts: Path, model_directory: Path, here: Here
) -> None:
    filled = [str(model_directory) if part == "MODEL" else part for part in arguments]
    found, written, told = here(*filled, cwd=texts.parent)
    assert found == code, told
    assert words in " ".join(told.split())
    assert "Traceback" not in told
    assert written == ""


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = run("build", "no.toml", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
