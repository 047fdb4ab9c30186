"""Pure functions from shard to shard, run in this process, in local processes, or on a Ray cluster: same results.

A task is a module-level function with its arguments and a *marker*, a JSON file that is written when its outputs are
whole. What has a marker of the same work is not run again, so a killed run goes on where it was; a worker that is
killed loses only its own tasks, which others take over. A function writes its outputs atomically and under names of its
own, and returns a small JSON value; so nothing is lost or doubled, whoever runs it and however often.

On a cluster, markers and outputs lie on a file system that all its machines see, at the same path.
Cost: a marker and a start of a worker (a second, once); tasks should take a second or more.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from f2llm.core.errors import ConfigError, F2LLMError, StorageError
from f2llm.core.extras import optional
from f2llm.core.files import digest_json, write_json
from f2llm.core.log import Bar, warn

EngineKind = Literal["local", "ray"]
ATTEMPTS = 3
"""How often a task is tried whose worker was killed."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


@dataclass(frozen=True)
class Task:
    """`run(**arguments)`, unless `marker` says that it is done. `rows`: how much work it is, for the progress bar.

    `run` is a module-level function, or a `functools.partial` of one; arguments are JSON values, paths, partials and
    module-level functions. Results are JSON values.
    """

    marker: Path
    run: Callable[..., Any]
    arguments: Mapping[str, Any]
    rows: int = 1

    def fingerprint(self) -> str:
        """Digest of the function's name and of the arguments."""
        return digest_json([_described(self.run), _described(dict(self.arguments))])


class Engine(Protocol):
    """Runs tasks."""

    def map(self, tasks: Sequence[Task], description: str) -> list[Any]:
        """The result of each task, in their order; the first error of any stops the rest and is raised."""
        ...

    def close(self) -> None:
        """Let the workers go."""
        ...


def make_engine(kind: EngineKind = "local", *, workers: int | None = None, address: str | None = None) -> Engine:
    """An engine; `workers`: local processes (default: one a core), `address`: of a running Ray cluster."""
    if kind == "ray":
        return RayEngine(address, workers)
    if address is not None:
        raise ConfigError(f"--address {address} is of a Ray cluster; add --engine ray")
    return LocalEngine(workers)


def perform(task: Task) -> Any:
    """Run a task here, or read its result where it is done; what every engine does with it."""
    found = finished(task)
    if found is None:
        found = (task.run(**task.arguments),)
        write_json(task.marker, {"fingerprint": task.fingerprint(), "result": found[0]}, indent=None)
    return found[0]


def finished(task: Task) -> tuple[Any] | None:
    """The result of a task that is done; None for one that is not, or whose marker is of other work or unreadable."""
    try:
        marker = json.loads(task.marker.read_text(encoding="utf-8"))
        return (marker["result"],) if marker["fingerprint"] == task.fingerprint() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


class LocalEngine:
    """Worker processes of this machine; small work is done in this process.

    Each worker uses its share of the cores. Workers end when this process does, however it ends.
    """

    SMALL = 50_000
    """Rows below which starting workers is not worth it."""

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"--workers {workers}: at least one is needed")
        self.asked = workers
        self.workers = workers or cores()
        self._pool: ProcessPoolExecutor | None = None

    def map(self, tasks: Sequence[Task], description: str) -> list[Any]:
        results, waiting = _split(tasks)
        with Bar(description, sum(task.rows for task in tasks)) as bar:
            bar.advance(sum(tasks[place].rows for place in results))
            if self._worth_it([tasks[place] for place in waiting]):
                self._spread(tasks, waiting, results, bar)
            else:
                for place in waiting:
                    results[place] = perform(tasks[place])
                    bar.advance(tasks[place].rows)
        return [results[place] for place in range(len(tasks))]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _worth_it(self, tasks: Sequence[Task]) -> bool:
        if self.workers == 1 or len(tasks) < 2:
            return False
        return self.asked is not None or sum(task.rows for task in tasks) >= self.SMALL

    def _spread(self, tasks: Sequence[Task], waiting: list[int], results: dict[int, Any], bar: Bar) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                for place, result in self._done(tasks, waiting):
                    results[place] = result
                    bar.advance(tasks[place].rows)
                return
            except BrokenProcessPool:
                self.close()
                waiting = [place for place in waiting if place not in results]
                warn(f"a worker was killed (out of memory?); {len(waiting)} tasks go on in new ones, try {attempt}")
        raise StorageError(
            f"workers were killed {ATTEMPTS} times, the last on one of {len(waiting)} tasks like "
            f"{tasks[waiting[0]].marker.name}; give fewer --workers, or more memory, and run the command again"
        )

    def _done(self, tasks: Sequence[Task], waiting: list[int]) -> Iterator[tuple[int, Any]]:
        """(place, result) as tasks end; at most a few are handed out ahead."""
        if self._pool is None:
            share = max(1, cores() // self.workers)
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, context, _start_worker, (os.getpid(), share))
        coming, running = iter(waiting), dict[Future[Any], int]()
        try:
            while True:
                for place in coming:
                    running[self._pool.submit(perform, tasks[place])] = place
                    if len(running) >= 2 * self.workers:
                        break
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()


class RayEngine:
    """Workers of a Ray cluster (extra `ray`): the one at `address`, or one that is started on this machine."""

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        self._ray = optional("ray", "ray")
        try:
            self._ray.init(
                address=address, num_cpus=None if address else workers, log_to_driver=False, logging_level="ERROR",
                include_dashboard=False if address is None else None, ignore_reinit_error=True,
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"no Ray cluster answers at {address or 'this machine'}: {first}") from None
        self._remote = self._ray.remote(perform).options(max_retries=ATTEMPTS, num_cpus=1)

    def map(self, tasks: Sequence[Task], description: str) -> list[Any]:
        results, waiting = _split(tasks)
        with Bar(description, sum(task.rows for task in tasks)) as bar:
            bar.advance(sum(tasks[place].rows for place in results))
            running = {self._remote.remote(tasks[place]): place for place in waiting}
            while running:
                (done, *_), _ = self._ray.wait(list(running))
                place = running.pop(done)
                try:
                    results[place] = self._ray.get(done)
                except BaseException as error:
                    for reference in running:
                        self._ray.cancel(reference)
                    raise _cause(error, self._ray, tasks[place]) from None
                bar.advance(tasks[place].rows)
        return [results[place] for place in range(len(tasks))]

    def close(self) -> None:
        self._ray.shutdown()


def _cause(error: BaseException, ray: Any, task: Task) -> BaseException:
    """What a task raised, without Ray's wrapping; a worker that died too often as one sentence."""
    cause = getattr(error, "cause", None)
    if isinstance(error, F2LLMError) or not isinstance(error, ray.exceptions.RayError):
        return error
    if isinstance(cause, BaseException):
        return cause
    if isinstance(error, ray.exceptions.WorkerCrashedError | ray.exceptions.OutOfMemoryError):
        return StorageError(f"workers died {ATTEMPTS + 1} times on {task.marker.name}; give them more memory")
    return error


def _split(tasks: Sequence[Task]) -> tuple[dict[int, Any], list[int]]:
    """Results of the tasks that are done, and the places of the others."""
    results: dict[int, Any] = {}
    for place, task in enumerate(tasks):
        found = finished(task)
        if found is not None:
            results[place] = found[0]
    return results, [place for place in range(len(tasks)) if place not in results]


def _described(value: Any) -> Any:
    """A JSON value that stands for an argument."""
    if isinstance(value, partial):
        return [_described(value.func), _described(list(value.args)), _described(dict(value.keywords))]
    if callable(value):
        return [value.__module__, value.__qualname__]
    if isinstance(value, Mapping):
        return {str(key): _described(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker(parent: int, threads: int) -> None:
    for name in _THREAD_VARIABLES:
        os.environ.setdefault(name, str(threads))
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A killed parent cannot tell its workers to stop."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
