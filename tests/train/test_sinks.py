"""Trackers get the numbers, stay off the network, and never stop a run."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from f2llm.core.errors import ConfigError, MissingDependencyError
from f2llm.train import sinks
from f2llm.train.sinks import open_sinks


class FakeTracker:
    """Stands for trackio and wandb: remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def init(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
        print("hello from the tracker")
        self.calls.append(("init", args, kwargs, constants.HF_HUB_OFFLINE))
        return SimpleNamespace(log=lambda values, step: self.calls.append((step, values)), finish=self.finish)

    def finish(self) -> None:
        print("goodbye from the tracker")
        self.calls.append("finish")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTracker:
    tracker = FakeTracker()
    for name in ("trackio", "wandb"):
        monkeypatch.setitem(sys.modules, name, tracker)
    for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tracker


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(directory / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_holds_what_was_written_and_hides_what_a_resumed_run_repeats(tmp_path: Path) -> None:
    (first,) = open_sinks(["tensorboard"], tmp_path, "run", {"lr": 1e-3}, False)
    for step in range(1, 7):
        first.write(step, {"loss": step / 2, "by_source/a": 1.0})
    first.close()
    (second,) = open_sinks(["tensorboard"], tmp_path, "run", {"lr": 1e-3}, True, step=4)
    second.write(5, {"loss": 50.0})
    second.close()
    found = scalars(tmp_path)
    assert found["loss"] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0), (5, 50.0)]
    assert [step for step, _ in found["by_source/a"]] == [1, 2, 3, 4]


def test_trackio_is_local_and_quiet(fake: FakeTracker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sink,) = open_sinks(["trackio"], tmp_path, "run", {"a": 1}, True, step=3)
    sink.write(4, {"loss": 1.0})
    sink.close()
    (_, args, kwargs, offline), *rest = fake.calls
    assert args == ("f2llm", "run")
    assert offline
    assert constants.HF_HUB_OFFLINE is False
    assert (kwargs["resume"], kwargs["config"]) == ("allow", {"a": 1})
    assert rest == [(4, {"loss": 1.0}), "finish"]
    assert capsys.readouterr().out == ""


def test_trackio_may_reach_the_space_that_the_user_named(
    fake: FakeTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/space")
    open_sinks(["trackio"], tmp_path, "run", {}, False)
    assert fake.calls[0][2]["resume"] == "never"
    assert fake.calls[0][3] is False


@pytest.mark.parametrize(("mode", "expected"), [(None, "offline"), ("online", "online")])
def test_wandb_is_offline_unless_asked(
    fake: FakeTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str | None, expected: str
) -> None:
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    (sink,) = open_sinks(["wandb"], tmp_path, "run", {"a": 1}, False)
    sink.write(1, {"loss": 1.0})
    sink.close()
    settings = fake.calls[0][2]
    assert (settings["mode"], settings["dir"]) == (expected, str(tmp_path))
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    assert fake.calls[1:] == [(1, {"loss": 1.0}), "finish"]


@pytest.mark.parametrize(
    ("name", "advice"),
    [("tensorboard", r"f2llm\[track\]"), ("trackio", r"f2llm\[track\]"), ("wandb", "pip install wandb")],
)
def test_missing_package_names_what_brings_it(
    name: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    with pytest.raises(MissingDependencyError, match=advice):
        open_sinks([name], tmp_path, "run", {}, False)


def test_unknown_name_is_refused_before_anything_opens(fake: FakeTracker, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tensorboard, trackio, wandb"):
        open_sinks(["trackio", "mlflow"], tmp_path, "run", {}, False)
    assert fake.calls == []


class Broken:
    """Fails at the call of the given name."""

    def __init__(self, at: str) -> None:
        self.at = at
        self._fail("open")

    def _fail(self, place: str) -> None:
        if place == self.at:
            raise OSError("[/disk] is gone")

    def write(self, step: int, values: object) -> None:
        self._fail("write")

    def close(self) -> None:
        self._fail("close")


@pytest.mark.parametrize("at", ["open", "write", "close"])
def test_a_broken_sink_is_dropped_with_one_warning(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(sinks, "warn", said.append)
    monkeypatch.setattr(sinks, "_package", lambda _: None)
    monkeypatch.setitem(sinks.SINKS, "trackio", lambda *_: Broken(at))
    both = open_sinks(["trackio", "tensorboard"], tmp_path, "run", {}, False)
    for step in range(3):
        for sink in both:
            sink.write(step, {"loss": 1.0})
    for sink in both:
        sink.close()
    assert len(said) == 1
    assert "trackio failed" in said[0]
    assert len(scalars(tmp_path)["loss"]) == 3


def test_the_warning_survives_brackets_in_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sinks, "_package", lambda _: None)
    monkeypatch.setitem(sinks.SINKS, "trackio", lambda *_: Broken("open"))
    open_sinks(["trackio"], tmp_path, "run", {}, False)
    assert "OSError: [/disk] is gone" in " ".join(capsys.readouterr().err.split())
