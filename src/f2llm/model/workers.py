"""Several processes that encode, each with an engine of its own: for machines with more cores than one model can use.

Each process loads the model again (memory: the weights, once a process) and takes its share of the cores; starting
takes some seconds, and a script that does so needs the usual `if __name__ == "__main__":`. A process that dies ends
the call with one sentence, not with a wait for ever.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import torch

from f2llm.core.errors import ModelError
from f2llm.core.machine import cores
from f2llm.model.engines.base import Engine, Ids
from f2llm.model.vectors import Vectors

_engine: Engine  # of a worker process


class Workers:
    """`count` processes, started with the first pack; a context manager."""

    def __init__(self, make: Callable[[], Engine], count: int) -> None:
        start = partial(_start, make, max(1, cores() // count))
        self._count = count
        self._pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=start)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def embed(self, packs: Iterable[Sequence[Ids]], prefix: Ids | None) -> Iterator[Vectors]:
        """States of each pack, in order; few packs are on their way at once."""
        waiting: deque[Future[Vectors]] = deque()
        try:
            for pack in packs:
                waiting.append(self._pool.submit(_embed, pack, prefix))
                if len(waiting) > 2 * self._count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise ModelError(
                "a process that encodes ended early, perhaps for want of memory (each one loads the model); "
                "give fewer processes"
            ) from None


def _start(make: Callable[[], Engine], threads: int) -> None:
    global _engine
    torch.set_num_threads(threads)
    _engine = make()


def _embed(pack: Sequence[Ids], prefix: Ids | None) -> Vectors:
    return _engine.embed(pack, prefix)
