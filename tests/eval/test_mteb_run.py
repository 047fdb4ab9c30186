"""Runs: from one encoding pass, resumed, offline, on a budget, with one sentence for what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset
from safetensors.numpy import load_file, save_file

from f2llm.core.errors import ConfigError, ModelError
from f2llm.core.files import digest_file
from f2llm.eval import footprint, mteb_run, mteb_tasks
from f2llm.eval.mteb_run import ModelRuns, evaluate_directory
from f2llm.eval.results import read_results
from f2llm.text.tokenizer import Tokenizer
from tests.eval import mteb_fakes as fakes

SHORT = '{"query": "q", "STS": "s", "BitextMining": "b", "Clustering": "c"}'


@pytest.fixture(autouse=True)
def _same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `go_offline` sets is taken back after each test."""
    import datasets
    import huggingface_hub

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
        monkeypatch.setattr(datasets.config, name, getattr(datasets.config, name))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", huggingface_hub.constants.HF_HUB_OFFLINE)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Instructions so short that the small model, which reads 40 tokens, has room for the text."""
    path = tmp_path / "short.json"
    path.write_text(SHORT)
    return {"instructions_file": path, "dims": []}


def test_all_dimensions_and_precisions_from_one_pass(
    model_directory: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    tokenize = Tokenizer.encode_counted

    def counting(self: Tokenizer, wanted: list[str]) -> Any:
        texts.extend(wanted)
        return tokenize(self, wanted)

    monkeypatch.setattr(Tokenizer, "encode_counted", counting)
    tasks = [fakes.Search(), fakes.Sts(), fakes.Rerank()]
    found = evaluate_directory(
        model_directory,
        tasks,
        tmp_path / "out",
        **options | {"dims": [16, 8, 48]},
        precisions=["binary", "float32", "int8"],
    )
    assert len(texts) == len(set(texts)) > 100
    assert [(r.task, r.dims, r.precision) for r in found] == [
        (task, dim, precision)
        for task in ("FakeSearch", "FakeSTS", "FakeRerank")
        for dim in (8, 16, None)
        for precision in ("float32", "int8", "binary")
    ]
    assert all(result.main_score is not None for result in found)
    search = [r for r in found if r.task == "FakeSearch"]
    assert len({r.main_score for r in search}) > 3
    assert all(np.mean(list(r.scores_by_query.values())) == pytest.approx(r.main_score, abs=1e-4) for r in search)
    assert set(search[0].scores_by_language) == {"eng", "deu"}
    assert search[0].tokens_per_second
    assert search[1].tokens_per_second is None  # every vector was there


def test_an_aggregate_is_the_mean_of_its_parts(model_directory: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    tasks = [fakes.Both(), fakes.Bitext(), fakes.Classes()]
    both, bitext, classes = evaluate_directory(model_directory, tasks, tmp_path / "out", **options)
    assert both.main_score == pytest.approx((bitext.main_score + classes.main_score) / 2)
    assert evaluate_directory(model_directory, [fakes.Both()], tmp_path / "out", **options) == [both]


def test_results_are_kept_and_read_back(model_directory: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    out = tmp_path / "out"
    first = evaluate_directory(model_directory, [fakes.Sts(), fakes.Clusters()], out, **options)
    loads = fakes.Sts.loads
    again = evaluate_directory(model_directory, [fakes.Sts(), fakes.Clusters()], out, **options)
    assert again == first
    assert fakes.Sts.loads == loads
    assert sorted(read_results([out]), key=lambda r: r.task) == sorted(first, key=lambda r: r.task)
    content = json.loads(next((out / "results").rglob("FakeSTS/*.json")).read_text())
    assert content["instruction"] == {"FakeSTS": "Instruct: s\nQuery: "}
    assert content["mteb_version"] == mteb.__version__
    assert content["scores"]["test"]["default"]["cosine_spearman"] == first[0].main_score


def test_another_instruction_is_another_result(model_directory: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    first = evaluate_directory(model_directory, [fakes.Sts()], tmp_path / "out", **options)
    options["instructions_file"].write_text(SHORT.replace('"s"', '"t t"'))
    assert evaluate_directory(model_directory, [fakes.Sts()], tmp_path / "out", **options) != first


def test_scores_do_not_depend_on_what_ran_before(
    model_directory: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    alone = evaluate_directory(model_directory, [fakes.Clusters()], tmp_path / "a", **options)
    after = evaluate_directory(
        model_directory, [fakes.Classes(), fakes.Clusters()], tmp_path / "b", **options | {"dims": [8, 16]}
    )
    assert after[-1].main_score == alone[0].main_score


def test_a_killed_run_goes_on(
    model_directory: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = mteb.evaluate

    def killed(model: Any, task: Any, **more: Any) -> Any:
        if task.metadata.name == "FakeSearch":
            raise KeyboardInterrupt
        return evaluate(model, task, **more)

    monkeypatch.setattr(mteb, "evaluate", killed)
    tasks = [fakes.Sts(), fakes.Search()]
    with pytest.raises(KeyboardInterrupt):
        evaluate_directory(model_directory, tasks, tmp_path / "out", **options)
    asked = []
    monkeypatch.setattr(
        mteb, "evaluate", lambda model, task, **more: asked.append(task) or evaluate(model, task, **more)
    )
    found = evaluate_directory(model_directory, tasks, tmp_path / "out", **options)
    assert asked == tasks[1:]
    assert all(result.main_score is not None for result in found)


@pytest.mark.parametrize("harm", ["{", '{"task": "FakeSTS"}', "[]"])
def test_a_damaged_result_is_told_and_replaced(
    model_directory: Path, tmp_path: Path, options: dict[str, Any], capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    out = tmp_path / "out"
    first = evaluate_directory(model_directory, [fakes.Sts()], out, **options)
    (path,) = (out / "results").rglob("*.json")
    path.write_text(harm)
    (again,) = evaluate_directory(model_directory, [fakes.Sts()], out, **options)
    assert again.main_score == first[0].main_score
    assert "is damaged; the task is scored again" in " ".join(capsys.readouterr().err.split())


def test_an_absent_data_set_is_a_line_of_the_result(
    model_directory: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    absent, sts = evaluate_directory(
        model_directory, [fakes.Absent(), fakes.Sts()], tmp_path / "out", **options, data=tmp_path
    )
    assert sts.main_score is not None
    assert absent.main_score is None
    assert absent.error is not None
    assert "the data set nobody/nothing of FakeAbsent cannot be read" in absent.error
    assert "\n" not in absent.error
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["HF_DATASETS_OFFLINE"] == "1"


def test_a_task_that_fails_inside_is_a_line_and_tried_again(
    model_directory: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(fakes.Sts, "min_score", None)
        (found,) = evaluate_directory(model_directory, [fakes.Sts()], tmp_path / "out", **options)
    assert found.error is not None
    assert found.error.startswith("mteb stopped with TypeError")
    (found,) = evaluate_directory(model_directory, [fakes.Sts()], tmp_path / "out", **options)
    assert found.main_score is not None


def test_a_model_that_gives_nan_is_one_sentence(model_directory: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    copy = shutil.copytree(model_directory, tmp_path / "broken")
    tensors = load_file(copy / "model.safetensors")
    tensors["norm.weight"] = np.full_like(tensors["norm.weight"], np.nan)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not finite for 30 of 30 texts, the first"):
        evaluate_directory(copy, [fakes.Sts()], tmp_path / "out", **options)


def test_a_text_longer_than_the_limit_is_told(
    model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_directory(model_directory, [fakes.Sts()], tmp_path / "out", dims=[])
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("FakeSTS: 58 of 58 texts are longer than 40 tokens and were cut") == 1


def test_mteb_s_own_progress_bars_are_kept_off(
    model_directory: Path, tmp_path: Path, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_directory(model_directory, [fakes.Bitext(), fakes.Summaries()], tmp_path / "out", **options)
    told = capsys.readouterr()
    assert not told.out
    assert "it/s" not in told.err


def test_what_a_task_will_take(
    model_directory: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its characters at the measured speed and the scoring of each variant; nothing for what is done or has no data."""
    monkeypatch.setattr(mteb_run, "_characters_per_second", lambda model: 2.0)
    monkeypatch.setattr(mteb_tasks, "scoring_seconds", lambda task: 10.0)
    evaluate_directory(model_directory, [fakes.Bitext()], tmp_path / "out", **options)
    tasks = [fakes.Sts(), fakes.Bitext(), fakes.Absent()]
    encoding = mteb_tasks.characters(tasks[0]) / 2
    own = ModelRuns(model_directory, tasks, tmp_path / "out", **options)
    assert own.seconds() == {"FakeSTS": encoding + 10.0, "FakeBitext": 0.0, "FakeAbsent": 0.0}
    two = ModelRuns(model_directory, tasks, tmp_path / "out", **(options | {"dims": [8]}))
    assert two.seconds()["FakeSTS"] == encoding + 20.0


def test_only_chosen_tasks_run_and_none_after_the_deadline(
    model_directory: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    (done,) = evaluate_directory(model_directory, [fakes.Sts()], tmp_path / "out", **options)
    runs = ModelRuns(model_directory, [fakes.Sts(), fakes.Bitext(), fakes.Pairs()], tmp_path / "out", **options)
    spent = runs.results(["FakeBitext"], deadline=0.0)
    assert [(result.task, result.error) for result in spent] == [
        ("FakeSTS", None), ("FakeBitext", mteb_run.NOT_STARTED), ("FakePairs", mteb_run.NOT_STARTED)
    ]  # fmt: skip
    assert spent[0] == done
    assert [result.error for result in runs.results(["FakeBitext"])] == [None, None, mteb_run.NOT_STARTED]


def test_facts_of_the_model_are_in_every_result_and_added_to_older_ones(
    model_directory: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = evaluate_directory(model_directory, [fakes.Sts()], out, **options)
    (path,) = (out / "results").rglob("*.json")
    facts = json.loads(path.read_text())["model_facts"]
    assert (facts["footprint"], facts["teacher"]) == (None, None)
    assert facts["weights_sha256"] == digest_file(model_directory / "model.safetensors")
    monkeypatch.setattr(footprint, "footprint", lambda directory, store, weights: {"memory_mb": 7.0})
    again = evaluate_directory(model_directory, [fakes.Sts(), fakes.Bitext()], out, **options, footprint=True)
    assert again[:1] == first
    assert evaluate_directory(model_directory, [fakes.Sts()], out, **options) == first  # takes nothing away
    stated = [json.loads(path.read_text())["model_facts"] for path in (out / "results").rglob("*.json")]
    assert [facts["footprint"] for facts in stated] == [{"memory_mb": 7.0}] * 2


def test_scores_are_kept_by_split_and_subset(model_directory: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    (found,) = evaluate_directory(model_directory, [fakes.Search()], tmp_path / "out", **options)
    assert found.scores_by_split == {"test": dict(found.scores_by_language)}


def test_wrong_options_are_one_sentence(model_directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="int4; give some of float32, int8, binary"):
        evaluate_directory(model_directory, [], tmp_path, precisions=["int4"])
    with pytest.raises(ConfigError, match="--dims has 0"):
        evaluate_directory(model_directory, [], tmp_path, dims=[0])


def test_columns_are_read_whole_only_while_a_task_is_scored() -> None:
    column = Dataset.from_dict({"label": ["b", "a", "b"]})["label"]
    assert not hasattr(column, "__array__")
    with mteb_run._whole_columns():
        assert np.asarray(column).tolist() == list(column)
        assert np.asarray(column, dtype=object).dtype == object
    assert not hasattr(column, "__array__")
