"""The tiny recipe from end to end: artifacts, report, held-out data, and what a change reruns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from f2llm.core.config import load_recipe
from f2llm.core.errors import ConfigError, F2LLMError
from f2llm.core.files import read_json
from f2llm.data.examples import read_examples
from f2llm.model.doctor import diagnose
from f2llm.model.embedder import Embedder
from f2llm.pipeline.build import build, default_model
from f2llm.pipeline.evaluation import training_scorer
from f2llm.pipeline.plan import make_plan
from f2llm.pipeline.runner import Workplace
from f2llm.train.metrics import read_metrics
from tests.pipeline.conftest import EXPORTS, TINY, Built

SOURCES = ("translation", "kind", "place")


def test_every_step_leaves_a_manifest(built: Built) -> None:
    assert built.result.skipped == []
    for step in built.result.ran:
        manifest = read_json(built.out / step / "manifest.json")
        assert manifest["step"] == step
        assert manifest["wall_time_s"] >= 0
        assert manifest["peak_memory_mb"] is None or manifest["peak_memory_mb"] > 50
        assert {"config_digest", "input_digests", "output", "seed", "versions"} <= set(manifest)
    assert not (built.out / ".partial").exists()


def test_a_second_build_does_nothing(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built.home)
    before = {path: path.stat().st_mtime_ns for path in built.out.rglob("*") if path.is_file()}
    again = build(TINY)
    assert again.ran == []
    assert again.skipped == built.result.ran
    assert before == {path: path.stat().st_mtime_ns for path in built.out.rglob("*") if path.is_file()}


def test_a_change_of_the_students_length_reruns_their_part_only(built: Built, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "copy"
    shutil.copytree(built.out, out)
    again = build(TINY, out=out, overrides=["models.tiny-plain.stage2.max_steps=3"], until="export")
    assert again.ran == ["card", "train/tiny-plain/stage2", "evaluate/tiny-plain", "export/tiny-plain"]


def test_until_stops_after_a_group_of_steps(tmp_path: Path) -> None:
    result = build(TINY, out=tmp_path, until="convert")
    assert result.ran == [f"convert/{source}" for source in SOURCES]
    with pytest.raises(ConfigError, match="there is no such step; steps: convert/translation"):
        build(TINY, out=tmp_path, until="convrt")


@pytest.mark.parametrize(("share", "words"), [("1e-12", "no row is held out"), ("0.999", "no row left to train on")])
def test_a_split_that_leaves_nothing_stops_before_training(share: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        build(TINY, out=tmp_path, overrides=[f"clean.held_out_fraction={share}"], until="clean")


def test_held_out_names_are_in_no_training_row(built: Built) -> None:
    """Neither the unit nor the very text of an evaluated query was trained on, in any source, as anything."""
    units: set[str] = set()
    texts: set[str] = set()
    for source in SOURCES:
        for row in read_examples(built.out / "mine" / source):
            units.update(row.groups)
            texts.update([row.query, row.positive, *row.negatives])
    held_out = [row for source in SOURCES for row in read_examples(built.out / "clean" / "eval" / f"{source}.parquet")]
    assert len(held_out) > 50
    assert not {row.groups[0] for row in held_out} & units
    assert not {row.query for row in held_out} & texts


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_is_healthy_and_loads_elsewhere(built: Built, name: str) -> None:
    directory = built.out / "export" / name / "model"
    assert all(finding.ok for finding in diagnose(directory)), diagnose(directory)
    ours, theirs = Embedder.load(directory), SentenceTransformer(str(directory), device="cpu")
    texts = ["Schweiz", "", "日本", "a name that is much longer than the limit " * 9]
    for here, there in (
        (ours.encode_query(texts), theirs.encode_query(texts)),
        (ours.encode_query(texts, prompt_name="kind"), theirs.encode_query(texts, prompt_name="kind")),
        (ours.encode_document(texts), theirs.encode_document(texts)),
        (
            ours.encode_document(texts, truncate_dim=8),
            theirs.encode_document(texts, truncate_dim=8, normalize_embeddings=True),
        ),
    ):
        assert np.einsum("nd,nd->n", here, there).min() > 0.99999


def test_the_report_says_what_programs_and_people_need(built: Built) -> None:
    report = read_json(built.out / "report" / "report.json")
    assert {model["name"] for model in report["models"]} == set(EXPORTS)
    needed = {"name", "parameters", "dims", "stage", "teacher", "scores", "baseline", "tokens_per_second"}
    for model in report["models"]:
        assert needed <= set(model)
        assert set(model["scores"]) == {*SOURCES, "macro"} == set(model["baseline"])
        assert model["tokens_per_second"] > 0
    by_name = {model["name"]: model for model in report["models"]}
    assert by_name["tiny-small"]["teacher"] == "tiny-base"
    assert by_name["tiny-small-pruned"]["stage"] == 0
    assert [baseline["name"] for baseline in report["baselines"]] == ["tfidf", "tfidf-expanded", "chance"]
    assert {(curve["model"], curve["stage"]) for curve in report["curves"]} == {
        ("tiny-base", 1), ("tiny-base", 2), ("tiny-small", 2), ("tiny-plain", 2)
    }  # fmt: skip
    assert [(search["query"], search["answer"]) for search in report["searches"]] == [("Schweiz", "")]
    assert report["command"] == f"f2llm build {TINY}"
    page = (built.out / "report" / "report.html").read_text(encoding="utf-8")
    assert "tiny-small" in page
    assert "http" not in page.replace("http://www.w3.org", ""), "the page stands alone"
    pictures = list((built.out / "report" / "figures").glob("*.png"))
    assert len(pictures) >= 5
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_milestones_and_checkpoints_are_kept(built: Built) -> None:
    directory = built.out / "train" / "tiny-base" / "stage1"
    assert [path.name for path in (directory / "milestones").iterdir()] == ["step-00000020.safetensors"]
    entries = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries if "kind" not in entry] == list(range(40))
    assert [entry["step"] for entry in entries if entry.get("kind") == "validation"] == [40]


def test_the_last_score_in_training_is_that_of_the_evaluation(built: Built) -> None:
    """The tiny recipe holds fewer queries and documents out than a sample may have."""
    for stage, name in ((1, "tiny-base-preview"), (2, "tiny-base")):
        task = read_json(built.out / "evaluate" / name / "scores.json")["tasks"]["translation"]
        lines = read_metrics(built.out / "train" / "tiny-base" / f"stage{stage}" / "metrics.jsonl")
        (entry,) = [entry for entry in lines if entry.get("kind") == "evaluation"]
        assert entry["left_out"] == 0
        assert (
            entry["ndcg@10"] == entry["by_source"]["translation"]["ndcg@10"] == pytest.approx(task["score"], rel=1e-3)
        )
        assert entry["accuracy@1"] == pytest.approx(task["metrics"]["accuracy@1"], rel=1e-3)
        found = {lang: {"n": own["queries"], "score": own["ndcg@10"]} for lang, own in entry["by_language"].items()}
        assert found == {lang: pytest.approx(own, rel=1e-2) for lang, own in task["by_language"].items()}
    curves = read_json(built.out / "report" / "report.json")["curves"]
    assert all(len(curve["scores"]) == 1 for curve in curves)
    assert (built.out / "report" / "figures" / "progress.png").is_file()


def test_how_a_run_is_watched_makes_nothing_stale() -> None:
    watched = ["training.evaluate_every=7", "training.evaluation_queries=5", "training.evaluation_seconds=1.5"]
    before, after = (make_plan(*load_recipe(TINY, overrides)) for overrides in ([], watched))
    assert [(step.name, step.config, step.inputs) for step in before] == [
        (step.name, step.config, step.inputs) for step in after
    ]


@pytest.mark.parametrize("nothing", ["clean.held_out_fraction=0.0", "sources.translation.evaluate=false"])
def test_without_held_out_searches_nothing_is_scored_in_training(nothing: str, tmp_path: Path) -> None:
    recipe, _ = load_recipe(TINY, [nothing])
    assert training_scorer(Workplace(tmp_path, tmp_path, 0), recipe, recipe.models[0], 1) is None


def test_the_model_of_the_last_build_is_the_default(
    built: Built, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(built.home)
    assert default_model() == built.out / "export" / "tiny-small" / "model"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(F2LLMError, match="give --model DIR, or run: f2llm build"):
        default_model()
