"""A short training run in a process of its own, for the tests that kill it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from f2llm.data.store import TokenStore
from f2llm.model.checkpoint import save_tensors
from f2llm.model.decoder import Decoder
from f2llm.model.sizes import Shape
from f2llm.train import state, trainer
from f2llm.train.evaluation import Embed
from f2llm.train.metrics import SCORE, read_metrics
from f2llm.train.settings import TrainSettings, Upkeep
from tests.train.test_trainer import SETTINGS as TRAINER

SHAPE = Shape(16, 2, 24, 4, 2, 8, 300)
SETTINGS = replace(TRAINER, steps=60, validation_fraction=0.1)
UPKEEP = Upkeep(checkpoint_every=3, keep_last=2, keep_every=15, milestones=2, validate_every=4, evaluate_every=4)
MEASURED = {"seconds", "floor_share", "memory_mb"}


def fresh(seed: int = 0, shape: Shape = SHAPE) -> Decoder:
    decoder = Decoder(shape)
    decoder.init_weights(seed)
    return decoder


def entries(directory: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what differs from run to run."""
    found = read_metrics(directory / "metrics.jsonl")
    return [{key: value for key, value in entry.items() if key not in MEASURED} for entry in found]


def start(*arguments: Any) -> ForkServerProcess:
    """`run` in a process that is forked from one which has the package loaded and nothing computed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["f2llm.train.trainer"])
    process = context.Process(target=run, args=arguments)
    process.start()
    return process


def run(
    store: Path,
    directory: Path,
    settings: TrainSettings,
    upkeep: Upkeep,
    pause: float = 0.0,
    dies_at: int | None = None,
) -> None:
    """Train to the end; `pause` seconds before each step, and dead before the `dies_at`-th operation on files."""
    torch.set_num_threads(1)
    step = trainer._Run.step

    def slowed(self: trainer._Run, number: int) -> dict[str, Any]:
        time.sleep(pause)
        return step(self, number)

    trainer._Run.step = slowed  # type: ignore[method-assign]
    trainer.matrix_rate = lambda *_: 1e12  # type: ignore[assignment]  # measuring it takes two seconds
    decoder, tokens = fresh(), TokenStore(store)
    operations = _count_operations(dies_at)
    weights = trainer.train(decoder, tokens, settings, directory, upkeep=upkeep, scorer=score)
    count = next(operations)
    save_tensors(weights, directory.with_suffix(".safetensors"))
    directory.with_suffix(".operations").write_text(str(count))


def score(embed: Embed, seconds: float) -> dict[str, float]:
    """A number that tells the weights apart."""
    vectors = embed([np.array([5, 3, 1]), np.array([5, 9, 2, 7])])
    return {SCORE: float(vectors[0] @ vectors[1])}


def _count_operations(dies_at: int | None) -> itertools.count[int]:
    """Count what changes the directory from now on."""
    counter = itertools.count()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if next(counter) == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **named)

        return call

    for module, names in ((os, ("mkdir", "replace", "fsync", "unlink", "rmdir")), (state, ("save_file",))):
        for name in names:
            setattr(module, name, counted(getattr(module, name)))
    return counter
