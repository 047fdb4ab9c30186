"""Scores of the present weights while they train, by a scorer that the caller brings; its failures never stop the run.

The main process runs the scorer. The texts that it asks for are embedded by all processes, each its share, and the
others know nothing else of it. So task, clock and budget exist once, and no two processes can disagree about them.
Cost: a forward pass over those texts, and on several processes three small messages a call. Limit: a process that runs
out of memory in the middle of a sharded forward pass leaves the others waiting, as it does in a training step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.markup import escape
from torch import Tensor

from f2llm.core.errors import F2LLMError, TrainingError
from f2llm.core.log import warn
from f2llm.train.batch import PackedBatch, pack_ids
from f2llm.train.distributed import Replica
from f2llm.train.gradcache import Rounds, embed_own, gather_rounds
from f2llm.train.metrics import SCORE, Entry

Texts = Sequence[NDArray[np.integer]]
Embed = Callable[[Texts], NDArray[np.float32]]
"""Token ids of each text, EOS included -> vectors [N, D] of the present weights, not normalised."""
Scorer = Callable[[Embed, float], Mapping[str, Any]]
"""An `Embed` and a budget in seconds -> what an evaluation entry of metrics.jsonl holds; raises what it likes."""


class Evaluation:
    """Runs a scorer and leaves no trace in the training: no gradient, no change of mode, the same random state."""

    def __init__(self, scorer: Scorer, replica: Replica, max_tokens: int) -> None:
        self.scorer, self.replica, self.world, self.max_tokens = scorer, replica, replica.world, max_tokens
        self.note = ""
        self._told = ""

    def run(self, step: int, seconds: float) -> Entry:
        """What the scorer finds after `step` steps, or the "error" that it ended with. All processes call it."""
        started, device = time.monotonic(), self.world.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            found = self._score(step, seconds) if self.world.is_main else self._follow()
        return {"kind": "evaluation", **found, "seconds": round(time.monotonic() - started, 3)}

    def _score(self, step: int, seconds: float) -> Entry:
        try:
            found = dict(self.scorer(self._embed, seconds))
            json.dumps(found)  # a value that metrics.jsonl cannot hold is a failure of the scorer too
            self.note = f"{SCORE} {found[SCORE]:.3f}" if SCORE in found else ""
        except Exception as error:
            found = {"error": self._tell(step, error)}
        self.world.gather(None)  # the others need not wait for more texts
        return found

    def _tell(self, step: int, error: Exception) -> str:
        """What went wrong, warned about unless it is what was said the last time."""
        cause = str(error) if isinstance(error, F2LLMError) else f"{type(error).__name__}: {error}"
        if cause != self._told:
            warn(f"no evaluation after step {step}, training goes on: {escape(cause)}")
        self._told = cause
        return cause

    def _embed(self, texts: Texts) -> NDArray[np.float32]:
        self.world.gather(texts)
        return self._together(texts)

    def _follow(self) -> Entry:
        """Embed this process's share of whatever the main one asks for, until it is done."""
        while (texts := self.world.gather(None)[0]) is not None:
            with suppress(TrainingError):  # the main process has it too, and tells it
                self._together(texts)
        return {}

    def _together(self, texts: Texts) -> NDArray[np.float32]:
        """Vectors [N, D] of all texts in every process; a failure of one process is a TrainingError in all."""
        batch, rounds, own = self.world.together(lambda: self._own(texts))
        rows = gather_rounds(self.replica, rounds, own).cpu().numpy()
        found = np.empty_like(rows)
        found[batch.text_ids] = rows
        return found

    def _own(self, texts: Texts) -> tuple[PackedBatch, Rounds, list[Tensor]]:
        try:
            batch = pack_ids(texts).to(self.world.device)
            rounds = batch.shares(self.world.size, self.max_tokens)
            return batch, rounds, embed_own(self.replica, rounds)
        except Exception as error:
            raise TrainingError(f"{len(texts)} texts were not embedded ({type(error).__name__}: {error})") from error
