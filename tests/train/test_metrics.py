"""metrics.jsonl reads back to the bit and is cut back on resume; means and rates are those of the slow form."""

import json
import math
import random
from pathlib import Path

import pytest

from f2llm.core.errors import DataError, StorageError
from f2llm.train.metrics import Averages, MetricsLog, flatten, read_metrics


def entry(step: int, **more: object) -> dict[str, object]:
    return {"step": step, "loss": 1.0, "rows": 4, "tokens": 100, "seconds": 0.5, **more}


def write(path: Path, *entries: dict[str, object], step: int = 0) -> None:
    log = MetricsLog(path, step)
    for one in entries:
        log.write(one)
    log.close()


def test_floats_read_back_to_the_bit(tmp_path: Path) -> None:
    generator = random.Random(0)
    losses = [generator.uniform(0, 10) * 10.0 ** generator.randint(-300, 300) for _ in range(500)]
    write(tmp_path / "m.jsonl", *({"step": step, "loss": loss} for step, loss in enumerate(losses)))
    assert [found["loss"] for found in read_metrics(tmp_path / "m.jsonl")] == losses


def test_nan_and_infinity_become_null(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, {"step": 0, "loss": math.nan, "inner": {"a": [math.inf, 1.5, "é"]}, "count": 3})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail) == {
        "step": 0, "loss": None, "inner": {"a": [None, 1.5, "é"]}, "count": 3
    }  # fmt: skip


def test_every_line_is_on_the_disk_when_written(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m.jsonl", 0)
    log.write(entry(0))
    assert len(list(read_metrics(tmp_path / "m.jsonl"))) == 1
    log.close()


def test_resume_keeps_training_below_and_validation_up_to_the_step(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    entries = [one for step in range(10) for one in (entry(step), {"step": step + 1, "kind": "validation"})]
    write(path, {"step": 0, "kind": "validation"}, *entries)
    write(path, step=5)
    found = list(read_metrics(path))
    assert [one["step"] for one in found if "kind" not in one] == list(range(5))
    assert [one["step"] for one in found if "kind" in one] == list(range(6))
    write(path, step=0)
    assert list(read_metrics(path)) == [{"step": 0, "kind": "validation"}]


@pytest.mark.parametrize("tail", [b'{"step": 2, "lo', b'{"step": 2}', b"\0\0\0\0\n", b"\xff\xfe\n", b"[]\n", b"3\n"])
def test_torn_lines_are_passed_over_and_cut(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "m.jsonl"
    write(path, entry(0), entry(1))
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert len(list(read_metrics(path))) == 2
    write(path, entry(2), step=2)
    assert path.read_bytes().startswith(whole)
    assert [one["step"] for one in read_metrics(path)] == [0, 1, 2]


def test_a_failed_cut_leaves_the_old_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.jsonl"
    write(path, entry(0), entry(1))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("f2llm.core.files.os.replace", fail)
    with pytest.raises(StorageError, match="no space"):
        MetricsLog(path, 1)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["m.jsonl"]


def test_missing_log_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_metrics(tmp_path / "none.jsonl")


def test_flatten() -> None:
    nested = {"step": 7, "loss": {"hard": 1, "deep": {"x": 2.5, "step": 3}}, "source": "a", "ok": True, "n": None}
    assert flatten({**nested, "languages": {"deu_Latn": [1.0, 2]}}) == {
        "loss/hard": 1.0, "loss/deep/x": 2.5, "loss/deep/step": 3.0
    }  # fmt: skip


def random_entries(count: int) -> list[dict[str, object]]:
    generator = random.Random(1)
    found = []
    for step in range(count):
        rows = generator.choice([4, 8])
        losses = [(generator.choice(["deu_Latn", "jpn_Jpan"]), generator.uniform(0, 3)) for _ in range(rows)]
        tags = {tag for tag, _ in losses}
        sums = {tag: [sum(v for t, v in losses if t == tag), sum(t == tag for t, _ in losses)] for tag in tags}
        source = generator.choice(["a", "b"])
        more = {"in_batch": generator.random()} if source == "a" else {}
        loss = sum(value for _, value in losses) / rows
        task = "retrieval" if source == "a" else "clustering"
        found.append(
            entry(step, rows=rows, loss=loss, source=source, task_type=task, hard=loss / 2, lr=step / 10,
                  grad_norm=generator.random(), seconds=generator.random(), floor_share=generator.random(),
                  languages=sums, row_losses=losses, **more)
        )  # fmt: skip
    return found


def mean(pairs: list[tuple[float, float]]) -> float:
    return sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs)


def test_averages_equal_the_means_over_all_rows() -> None:
    averages = Averages()
    for window in (random_entries(40)[:25], random_entries(40)[25:]):
        for one in window:
            averages.add(one)
        found = averages.summary()
        rows = [row for one in window for row in one["row_losses"]]
        assert found["loss"] == pytest.approx(mean([(value, 1) for _, value in rows]))
        for tag in ("deu_Latn", "jpn_Jpan"):
            assert found["by_language"][tag] == pytest.approx(mean([(v, 1) for t, v in rows if t == tag]))
        by_source = {s: mean([(o["loss"], o["rows"]) for o in window if o["source"] == s]) for s in ("a", "b")}
        assert found["by_source"] == pytest.approx(by_source)
        assert found["by_task"] == pytest.approx({"retrieval": by_source["a"], "clustering": by_source["b"]})
        assert found["in_batch"] == pytest.approx(mean([(o["in_batch"], o["rows"]) for o in window if "in_batch" in o]))
        assert found["grad_norm"] == pytest.approx(mean([(o["grad_norm"], 1) for o in window]))
        assert found["lr"] == window[-1]["lr"]
        assert found["floor_share"] == pytest.approx(mean([(o["floor_share"], o["seconds"]) for o in window]))
        assert found["tokens_per_s"] == pytest.approx(100 * len(window) / sum(o["seconds"] for o in window))
        assert found["steps"] == len(window)


def test_an_empty_window_has_no_summary_and_no_note() -> None:
    averages = Averages()
    assert averages.summary() == {}
    assert averages.note() == ""
    averages.add(entry(0))
    assert averages.note() == "loss 1.000, 200 tokens/s"
    assert averages.summary()["by_language"] == {}
    assert averages.summary() == {}
