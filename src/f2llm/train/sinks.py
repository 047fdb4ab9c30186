"""Where a run's numbers go besides metrics.jsonl: TensorBoard, trackio, Weights & Biases; all write to the local disk.

Nothing is sent anywhere unless the user's environment says so: WANDB_MODE for wandb, TRACKIO_SPACE_ID or
TRACKIO_SERVER_URL for trackio. A tracker that breaks is left out with one warning; the run goes on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import constants
from rich.markup import escape

from f2llm.core.errors import ConfigError, F2LLMError, MissingDependencyError
from f2llm.core.extras import optional
from f2llm.core.log import warn

PROJECT = "f2llm"


class Sink(Protocol):
    """Takes the numbers of a run; `step` counts finished steps and never falls."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def open_sinks(
    names: Sequence[str], directory: Path, run_name: str, config: dict[str, Any], resumed: bool, *, step: int = 0
) -> list[Sink]:
    """The sinks of `names` for the run in `directory`, continued after `step` finished steps if `resumed`.

    ConfigError for an unknown name, MissingDependencyError where a package is absent; each before any sink is opened.
    """
    for name in names:
        if name not in SINKS:
            raise ConfigError(f"unknown tracker {name!r}; known trackers: {', '.join(sorted(SINKS))}")
        _package(name)
    return [_Guarded(name, directory, run_name, config, step if resumed else None) for name in names]


def _package(name: str) -> Any:
    """The imported package of a tracker."""
    if name == "wandb":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read by wandb when it is imported
        try:
            return optional("wandb", "track")
        except MissingDependencyError:  # no extra brings it
            raise MissingDependencyError(
                "the package 'wandb' is needed here; install it with: pip install wandb"
            ) from None
    return optional(name, "track")


class _TensorBoard:
    """Event files in DIRECTORY/tensorboard; what an earlier attempt wrote after `step` is hidden."""

    def __init__(self, directory: Path, run_name: str, config: dict[str, Any], step: int | None) -> None:
        writer = optional("torch.utils.tensorboard", "track").SummaryWriter
        self._writer = writer(str(directory / "tensorboard"), purge_step=(step or 0) + 1, flush_secs=30)
        if step is None:
            text = json.dumps(config, indent=2, ensure_ascii=False, default=str).replace("\n", "\n    ")
            self._writer.add_text("config", f"{run_name}\n\n    {text}", 0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Trackio:
    """A run in trackio's own folder (TRACKIO_DIR); a resumed run continues, with a repeated step in it twice."""

    def __init__(self, directory: Path, run_name: str, config: dict[str, Any], step: int | None) -> None:
        with _no_hub(), redirect_stdout(sys.stderr):
            self._run = _package("trackio").init(
                PROJECT, run_name, config=config, resume="never" if step is None else "allow",
                embed=False, auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            _package("trackio").finish()  # not the run's own, after which trackio finishes it again at exit


@contextmanager
def _no_hub() -> Iterator[None]:
    """Keep trackio from asking the hub who is logged in, unless the user told it to log there."""
    before = constants.HF_HUB_OFFLINE
    if not (os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


class _Wandb:
    """A run below DIRECTORY/wandb, for `wandb sync`; a resumed run is another one of the same name and group."""

    def __init__(self, directory: Path, run_name: str, config: dict[str, Any], step: int | None) -> None:
        settings = {
            "silent": True, "console": "off", "save_code": False, "disable_git": True,
            "x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True,
        }  # fmt: skip
        directory.mkdir(parents=True, exist_ok=True)
        self._run = _package("wandb").init(
            project=PROJECT, name=run_name, group=run_name, dir=str(directory), config=config,
            mode=os.environ.get("WANDB_MODE", "offline"), settings=settings,
        )  # fmt: skip

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _Maker(Protocol):
    def __call__(self, directory: Path, run_name: str, config: dict[str, Any], step: int | None) -> Sink: ...


SINKS: dict[str, _Maker] = {"tensorboard": _TensorBoard, "trackio": _Trackio, "wandb": _Wandb}


class _Guarded:
    """A sink that is dropped with one warning when it fails."""

    def __init__(self, name: str, directory: Path, run_name: str, config: dict[str, Any], step: int | None) -> None:
        self.name = name
        self._sink: Sink | None = None
        with self._dropped_on_failure():
            self._sink = SINKS[name](directory, run_name, config, step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        with self._dropped_on_failure():
            if self._sink is not None:
                self._sink.write(step, values)

    def close(self) -> None:
        with self._dropped_on_failure():
            if self._sink is not None:
                self._sink.close()
        self._sink = None

    @contextmanager
    def _dropped_on_failure(self) -> Iterator[None]:
        try:
            yield
        except F2LLMError:
            raise
        except Exception as error:
            self._sink = None
            cause = escape(f"{type(error).__name__}: {error}")
            warn(f"{self.name} failed and gets no more numbers; the run goes on, metrics.jsonl is complete ({cause})")
