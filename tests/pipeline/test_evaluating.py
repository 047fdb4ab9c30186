"""`f2llm eval` and `f2llm compare` over their parts: names of models, the table, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from f2llm.core.errors import ConfigError
from f2llm.eval.results import TaskResult
from f2llm.pipeline.evaluating import _names, evaluate_models, family_listing, results_table


def result(task: str, score: float | None, dims: int | None = None, precision: str = "float32") -> TaskResult:
    return TaskResult(
        model="m", model_digest="d", task=task, task_type="STS", revision="1", split="test", dims=dims,
        precision=precision, main_score=score, error=None if score is not None else "no data",
    )  # fmt: skip


def test_the_family_has_seventeen_benchmarks_and_430_tasks() -> None:
    found = family_listing("f2llm-v2")
    assert (len(found["benchmarks"]), len(found["tasks"]), len(set(found["tasks"]))) == (17, 430, 430)


def test_models_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "a" / "small" / "model", tmp_path / "b" / "small" / "model"
    assert _names([one]) == ["small"]
    assert _names([one, two]) == ["a-small", "b-small"]
    with pytest.raises(ConfigError, match="same name"):
        _names([one, one])


def test_the_table_shows_the_widest_vectors() -> None:
    table = results_table({
        "a": [result("STSX", 0.5, 8), result("STSX", 0.7), result("STSX", 0.6, None, "binary")],
        "b": [result("STSX", None), result("STSY", 0.25, 16)],
    })  # fmt: skip
    cells = [list(column.cells) for column in table.columns]
    assert cells == [["STSX", "STSY"], ["STS", "STS"], ["0.700", "-"], ["-", "0.250"]]


def test_nothing_to_evaluate_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no task is named"):
        evaluate_models([tmp_path], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"did you mean|no task"):
        evaluate_models([tmp_path], tmp_path / "out", tasks=["Bankin77Classification"])
