"""The loss on held-out rows of each source, on a time budget; a source that does not fit comes first the next time."""

from __future__ import annotations

import time
from typing import Any

import torch

from f2llm.data.store import TokenStore
from f2llm.train.batch import pack_rows
from f2llm.train.distributed import Replica
from f2llm.train.gradcache import embed_batch
from f2llm.train.objective import make_objective
from f2llm.train.sampler import BatchSampler, Draw, draw_rows, held_out_rows
from f2llm.train.settings import TrainSettings


class Validation:
    """Each source's held-out rows are one batch with always the same hard negatives, so losses can be compared.

    The distillation term is left out: there are teacher's vectors of training texts only.
    """

    def __init__(self, store: TokenStore, settings: TrainSettings, sampler: BatchSampler) -> None:
        self.store, self.settings = store, settings
        self.waiting = {source: count for source, count in sampler.held_out.items() if count}
        self.newest: dict[str, float] = {}

    def run(self, replica: Replica, max_tokens: int, seconds: float) -> dict[str, Any]:
        """Losses by source within the budget, and how many sources were left for the next time.

        The mean is over the newest loss of each source, so that it does not jump with what fits into the budget.
        """
        started, found = time.monotonic(), {}
        for source in list(self.waiting):
            found[source] = self._loss(replica, source, max_tokens)
            self.waiting[source] = self.waiting.pop(source)
            if replica.world.any(time.monotonic() - started > seconds):
                break
        self.newest |= found
        mean = sum(self.newest.values()) / max(len(self.newest), 1)
        return {
            "kind": "validation", "loss": mean, "by_source": found,
            "sources_left_out": len(self.waiting) - len(found), "seconds": round(time.monotonic() - started, 3),
        }  # fmt: skip

    def _loss(self, replica: Replica, source: str, max_tokens: int) -> float:
        settings, task_type = self.settings, self.store.task_types[source]
        size = len(self.store.rows[source])
        rows = held_out_rows(size, self.waiting[source], settings.seed, source)
        table = draw_rows(self.store, Draw(source, -1, rows), settings.negatives(task_type), settings.seed)
        batch = pack_rows(self.store, source, table).to(replica.world.device)
        with torch.no_grad():
            total, _ = make_objective(settings.loss, batch, task_type, None)(embed_batch(replica, batch, max_tokens))
        return float(total.item())
