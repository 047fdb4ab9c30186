"""The picture of a run is made from whatever a metrics.jsonl may hold."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from f2llm.core.errors import DataError
from f2llm.train.curves import _mean_line, _read, smooth, training_curves


def entries(steps: int, sources: int = 3) -> list[dict[str, object]]:
    generator = random.Random(0)
    found: list[dict[str, object]] = []
    for step in range(steps):
        hard = 2.5 * math.exp(-step / 150) + 0.3 + generator.gauss(0, 0.12)
        in_batch = {"in_batch": hard * 1.3} if step % 3 else {}
        found.append({
            "step": step, "source": f"s{step % 3}", "loss": hard + in_batch.get("in_batch", 0), "hard": hard,
            **in_batch, "distill": 0.05, "lr": 1e-5 * min(1, step / 50),
            "grad_norm": None if step == 9 else 1 + generator.random(),
            "tokens": generator.randint(8000, 9000), "rows": 32, "seconds": 0.5 + generator.random() / 5,
        })  # fmt: skip
        if step % 50 == 49:
            by_source = {f"source-{number}": 2 / (number + 1) + 60 / (step + 60) for number in range(sources)}
            found.append({"step": step + 1, "kind": "validation", "loss": 1.0, "by_source": by_source})
            score = {"error": "no luck"} if step == 49 else {"ndcg@10": step / 200, "accuracy@1": None, "by_source": {}}
            found.append({"step": step + 1, "kind": "evaluation", **score})
    return found


def draw(directory: Path, found: list[dict[str, object]]) -> bytes:
    path = directory / "metrics.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in found) + '{"step": 3', encoding="utf-8")
    training_curves(path, directory / "curves.png")
    assert sorted(file.name for file in directory.iterdir()) == ["curves.png", "metrics.jsonl"]
    return (directory / "curves.png").read_bytes()


@pytest.mark.parametrize(("steps", "sources"), [(1, 0), (120, 1), (120, 14)])
def test_a_picture_is_drawn(steps: int, sources: int, tmp_path: Path) -> None:
    assert draw(tmp_path, entries(steps, sources)).startswith(b"\x89PNG")


def test_scores_are_read_and_failures_passed_over(tmp_path: Path) -> None:
    draw(tmp_path, entries(150))
    _, _, _, scores = _read(tmp_path / "metrics.jsonl")
    steps, values = scores["ndcg@10"]
    assert steps.tolist() == [100, 150]
    assert values.tolist() == [0.495, 0.745]
    assert np.isnan(scores["accuracy@1"][1]).all()


def test_entries_may_lack_everything_but_the_loss(tmp_path: Path) -> None:
    assert draw(tmp_path, [{"step": 0, "loss": None}, {"step": 1, "loss": 2.0}]).startswith(b"\x89PNG")


def test_a_log_without_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training step"):
        draw(tmp_path, [])


def test_smooth_is_the_mean_of_the_known_neighbours() -> None:
    values = np.array([1.0, np.nan, 3.0, 5.0, 4.0])
    assert smooth(values, window=1)[[0, 2, 3, 4]].tolist() == [1.0, 3.0, 5.0, 4.0]
    for place, found in enumerate(smooth(values, window=3)):
        assert found == pytest.approx(np.nanmean(values[max(0, place - 1) : place + 2]))
    assert np.isnan(smooth(np.full(4, np.nan))).all()


def test_smoothed_rate_is_tokens_by_seconds() -> None:
    tokens, seconds = np.array([10.0, 30.0]), np.array([1.0, 4.0])
    assert smooth(tokens, seconds, window=4).tolist() == [8.0, 8.0]


def test_the_mean_takes_the_newest_value_of_a_source_left_out() -> None:
    lines = [(np.array([1.0, 2.0, 4.0]), np.array([5.0, 3.0, 1.0])), (np.array([2.0, 3.0]), np.array([7.0, 5.0]))]
    steps, values = _mean_line(lines)
    assert steps.tolist() == [2.0, 3.0, 4.0]
    assert values.tolist() == [5.0, 4.0, 3.0]
