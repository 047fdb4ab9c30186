"""Skip what is up to date, rerun exactly what depends on a change, find a killed step's work again."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from f2llm.core.errors import ConfigError
from f2llm.core.files import read_json
from f2llm.data.engine import LocalEngine, Task
from f2llm.pipeline.runner import Step, Workplace, run_steps


def writer(text: str, *inputs: str) -> Any:
    """A step that writes `text` and what its inputs wrote."""

    def run(place: Workplace) -> None:
        before = "".join((place.artifact(name) / "text").read_text() for name in inputs)
        (place.directory / "text").write_text(before + text)

    return run


def plan(a: str = "a", b: str = "b", a_text: str | None = None) -> list[Step]:
    return [
        Step("a", writer(a_text or a), {"value": a}),
        Step("b", writer(b), {"value": b}),
        Step("c/left", writer("l", "a"), {}, ["a"]),
        Step("c/right", writer("r", "b"), {}, ["b"]),
        Step("d", writer("d", "c/left", "c/right"), {}, ["c/left", "c/right"]),
    ]


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    assert run_steps(plan(), tmp_path, seed=0).ran == ["a", "b", "c/left", "c/right", "d"]
    again = run_steps(plan(), tmp_path, seed=0)
    assert again.ran == []
    assert len(again.skipped) == 5


def test_a_change_reruns_what_depends_on_it(tmp_path: Path) -> None:
    run_steps(plan(), tmp_path, seed=0)
    assert run_steps(plan(b="B"), tmp_path, seed=0).ran == ["b", "c/right", "d"]
    assert (tmp_path / "d" / "text").read_text() == "alBrd"


def test_an_equal_output_stops_the_change(tmp_path: Path) -> None:
    run_steps(plan(), tmp_path, seed=0)
    assert run_steps(plan(a="other", a_text="a"), tmp_path, seed=0).ran == ["a"]


def test_another_seed_reruns_all(tmp_path: Path) -> None:
    run_steps(plan(), tmp_path, seed=0)
    assert len(run_steps(plan(), tmp_path, seed=1).ran) >= 2


def test_equal_work_is_taken_from_other_builds(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run_steps(plan(), one, seed=0)
    result = run_steps(plan(b="B"), two, seed=0, others=[tmp_path / "none", one])
    assert result.ran == ["b", "c/right", "d"]
    assert result.shared == result.skipped == ["a", "c/left"]
    assert (two / "d" / "text").read_text() == "alBrd"
    assert (one / "d" / "text").read_text() == "albrd"
    assert os.path.samefile(one / "a" / "text", two / "a" / "text")
    assert run_steps(plan(b="B"), two, seed=0).ran == []
    assert run_steps(plan(), tmp_path / "three", seed=1, others=[one]).shared == [], "another seed is other work"


def test_tasks_of_steps_that_are_taken_over_are_not_run(tmp_path: Path) -> None:
    def refuse(place: Workplace) -> Sequence[Task]:
        raise AssertionError("computed again")

    def read(name: str, tasks: Any) -> Step:
        return Step(name, writer(name), {}, tasks=tasks)

    run_steps([read("r/two", None)], tmp_path / "one", seed=0)
    steps = [read("r/one", lambda place: []), read("r/two", refuse)]
    result = run_steps(steps, tmp_path / "two", seed=0, others=[tmp_path / "one"])
    assert (result.ran, result.shared) == (["r/one"], ["r/two"])


def test_a_changed_input_file_reruns(tmp_path: Path) -> None:
    file = tmp_path / "raw.txt"
    file.write_text("1")
    steps = [Step("read", writer("x"), {}, files=[file])]
    assert run_steps(steps, tmp_path / "out", seed=0).ran == ["read"]
    assert run_steps(steps, tmp_path / "out", seed=0).ran == []
    file.write_text("22")
    assert run_steps(steps, tmp_path / "out", seed=0).ran == ["read"]


def test_until(tmp_path: Path) -> None:
    assert run_steps(plan(), tmp_path, seed=0, until="c").ran == ["a", "b", "c/left", "c/right"]
    with pytest.raises(ConfigError, match="no such step; steps: a, b"):
        run_steps(plan(), tmp_path, seed=0, until="z")


def test_manifest_holds_what_the_step_was_made_from(tmp_path: Path) -> None:
    run_steps(plan(), tmp_path, seed=5)
    manifest = read_json(tmp_path / "d" / "manifest.json")
    assert set(manifest["input_digests"]) == {"c/left", "c/right"}
    assert manifest["seed"] == 5
    assert {"config_digest", "versions", "wall_time_s", "peak_memory_mb"} <= set(manifest)
    assert manifest["versions"]["torch"]


def test_a_killed_step_finds_its_own_work_but_no_others(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def step(value: str, fail: bool) -> Step:
        def run(place: Workplace) -> None:
            seen.append(sorted(path.name for path in place.directory.iterdir() if path.name != "fingerprint"))
            (place.directory / "half").write_text("x")
            if fail:
                raise KeyboardInterrupt

        return Step("s", run, {"value": value})

    for value, fail in (("1", True), ("2", True), ("2", False)):
        try:
            run_steps([step(value, fail)], tmp_path, seed=0)
        except KeyboardInterrupt:
            continue
    assert seen == [[], [], ["half"]]
    assert not (tmp_path / ".partial").exists()


def test_checkpoints_survive_a_change_and_other_work(tmp_path: Path) -> None:
    def run(place: Workplace) -> None:
        (place.directory / "checkpoints" / "step-00000005").mkdir(parents=True, exist_ok=True)
        raise KeyboardInterrupt

    def training(value: str) -> Step:
        return Step("train/m", run, {"value": value}, parallel=True)

    for value in ("1", "2"):
        with pytest.raises(KeyboardInterrupt):
            run_steps([training(value)], tmp_path, seed=0)
    run_steps([Step("other", lambda place: None, {})], tmp_path, seed=0)
    assert (tmp_path / ".partial" / "train" / "m" / "checkpoints" / "step-00000005").is_dir()


def test_a_damaged_manifest_reruns_the_step(tmp_path: Path) -> None:
    run_steps(plan(), tmp_path, seed=0)
    (tmp_path / "a" / "manifest.json").write_text("{")
    assert run_steps(plan(), tmp_path, seed=0).ran == ["a"]


def note(directory: str, name: str) -> str:
    """A task that leaves a file and adds its name to a list, so that its runs can be counted."""
    with open(Path(directory) / "ran", "a") as handle:
        handle.write(name)
    return name


def spread(name: str, root: Path, fail: bool = False) -> Step:
    """A step of two tasks, whose results its artifact has."""

    def tasks(place: Workplace) -> list[Task]:
        marker = place.directory / ".tasks"
        parts = (f"{name}{part}" for part in (0, 1))
        return [Task(marker / part, note, {"directory": str(root), "name": part}) for part in parts]

    def run(place: Workplace) -> None:
        found = place.engine.map(tasks(place), name)
        if fail:
            raise KeyboardInterrupt
        shutil.rmtree(place.directory / ".tasks")
        (place.directory / "text").write_text(" ".join(found))

    return Step(name, run, {}, tasks=tasks)


class Counting(LocalEngine):
    """Says how many tasks came at once."""

    def __init__(self) -> None:
        super().__init__(workers=1)
        self.waves: list[int] = []

    def map(self, tasks: Sequence[Task], description: str) -> list[Any]:
        self.waves.append(len(tasks))
        return super().map(tasks, description)


def test_tasks_of_steps_that_need_no_other_run_together_and_once(tmp_path: Path) -> None:
    steps = [spread("a", tmp_path), spread("b", tmp_path), Step("c", writer("c", "a"), {}, ["a"])]
    engine = Counting()
    run_steps(steps, tmp_path / "out", seed=0, engine=engine)
    assert (tmp_path / "ran").read_text() == "a0a1b0b1"
    assert engine.waves == [4, 2, 2], "all at once, then each step finds its own done"
    assert (tmp_path / "out" / "b" / "text").read_text() == "b0 b1"


def test_tasks_that_are_done_are_not_run_again_after_an_interrupt(tmp_path: Path) -> None:
    for fail in (True, False):
        try:
            run_steps([spread("a", tmp_path, fail)], tmp_path / "out", seed=0)
        except KeyboardInterrupt:
            continue
    assert (tmp_path / "ran").read_text() == "a0a1"
