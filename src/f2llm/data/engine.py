"""Pure functions from shard to shard, run in this process, in local processes, or on a Ray cluster: same results.

A task is a module-level function with its arguments and a *marker*, a JSON file that is written when its outputs are
whole. What has a marker of the same work is not run again, so a killed run goes on where it was; a worker that is
killed loses only the task that it was at, which another takes over. A function writes its outputs atomically and under
names of its own, and returns a small JSON value; so nothing is lost or doubled, whoever runs it and however often.

On a cluster, markers and outputs lie on a file system that all its machines see, at the same path.
Cost: a marker and a start of a worker (a second, once); tasks should take a second or more.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from f2llm.core.errors import ConfigError, StorageError
from f2llm.core.extras import optional
from f2llm.core.files import digest_json, write_json
from f2llm.core.log import Bar, warn
from f2llm.core.machine import cores

EngineKind = Literal["local", "ray"]
ATTEMPTS = 3
"""How often a task is tried at which workers are killed."""
Answer = tuple[Any, BaseException | None]
"""What a task returned, or what it raised."""
_RAY_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what it says about killed workers it would print on standard output
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of errors that come after the first, it would print tracebacks
}
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

    def rest(self) -> None:
        """Let go what workers have loaded; the next `map` starts new ones where it has to."""
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


class _Engine:
    """What all engines share: what is done is not done again, and results come in the order of the tasks."""

    def map(self, tasks: Sequence[Task], description: str) -> list[Any]:
        results = {place: found[0] for place, task in enumerate(tasks) if (found := finished(task)) is not None}
        waiting = [place for place in range(len(tasks)) if place not in results]
        with Bar(description, sum(task.rows for task in tasks)) as bar:
            bar.advance(sum(tasks[place].rows for place in results))
            for place, result in self._done(tasks, waiting):
                results[place] = result
                bar.advance(tasks[place].rows)
        return [results[place] for place in range(len(tasks))]

    def _done(self, tasks: Sequence[Task], waiting: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """(place, result) of each waiting task when it ends."""
        raise NotImplementedError


class LocalEngine(_Engine):
    """Worker processes of this machine; small work is done in this process.

    Each worker uses its share of the cores. Workers end when this process does, however it ends.
    """

    SMALL = 50_000
    """Rows below which starting workers is not worth it."""

    def __init__(self, workers: int | None = None) -> None:
        _check_workers(workers)
        self.asked = workers
        self.workers = workers or cores()
        self._workers: list[_Worker] = []

    def rest(self) -> None:
        self.close()

    def close(self) -> None:
        while self._workers:
            self._workers.pop().end()

    def _done(self, tasks: Sequence[Task], waiting: Sequence[int]) -> Iterator[tuple[int, Any]]:
        if self._worth_it([tasks[place] for place in waiting]):
            yield from self._spread(tasks, waiting)
        else:
            yield from ((place, perform(tasks[place])) for place in waiting)

    def _worth_it(self, tasks: Sequence[Task]) -> bool:
        if self.workers == 1 or len(tasks) < 2:
            return False
        return self.asked is not None or sum(task.rows for task in tasks) >= self.SMALL

    def _spread(self, tasks: Sequence[Task], waiting: Sequence[int]) -> Iterator[tuple[int, Any]]:
        coming, killed = deque(waiting), Counter[int]()
        busy: dict[Any, tuple[_Worker, int]] = {}
        try:
            while coming or busy:
                while coming and len(busy) < self.workers:
                    worker, place = self._idle(busy), coming.popleft()
                    worker.give(tasks[place])
                    busy[worker.line] = worker, place
                for line in wait(list(busy)):
                    worker, place = busy.pop(line)
                    answer = worker.answer()
                    if answer is not None:
                        yield place, _result(answer)
                        continue
                    self._workers.remove(worker)
                    coming.appendleft(place)
                    killed[place] += 1
                    _check_killed(tasks[place], killed[place], worker.how_it_ended())
                    worker.end()
        finally:
            if busy:
                self.close()

    def _idle(self, busy: Mapping[Any, object]) -> _Worker:
        """A worker without a task; a new one where all are busy."""
        for worker in self._workers:
            if worker.line not in busy:
                return worker
        self._workers.append(_Worker(max(1, cores() // self.workers)))
        return self._workers[-1]


class _Worker:
    """A process that performs one task after the other, and the line to it."""

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, os.getpid(), threads), daemon=True)
        self.process.start()
        theirs.close()  # so that the line breaks when the process ends

    def give(self, task: Task) -> None:
        with suppress(OSError):  # killed while it was idle: `answer` says so
            self.line.send(task)

    def answer(self) -> Answer | None:
        """What came of the task; None when the process has ended instead."""
        try:
            return cast(Answer, self.line.recv())
        except (EOFError, OSError):
            return None

    def how_it_ended(self) -> str:
        self.process.join(5)
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.line.close()


def _work(line: Any, parent: int, threads: int) -> None:
    """What a worker does, until its parent ends it or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its workers
    for name in _THREAD_VARIABLES:
        os.environ.setdefault(name, str(threads))
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            line.send(_answer(line.recv()))


def _answer(task: Task) -> Answer:
    try:
        return perform(task), None
    except BaseException as error:
        return None, _portable(error)


def _end_with(parent: int) -> None:
    """A killed parent cannot tell its workers to stop."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _portable(error: BaseException) -> BaseException:
    """An error that another process can read, with the place where it was raised."""
    error.add_note(f"raised in a worker:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"a worker raised:\n{traceback.format_exc()}")
    return error


def _result(answer: Answer) -> Any:
    result, error = answer
    if error is not None:
        raise error
    return result


def _check_killed(task: Task, times: int, how: str) -> None:
    """Say that a worker was killed; StorageError when the task has no more tries."""
    if times >= ATTEMPTS:
        raise StorageError(
            f"workers were killed ({how}) at all {times} tries of {task.marker}; give fewer --workers, or more memory, "
            "and run the command again"
        )
    warn(f"a worker was killed ({how}; out of memory?) at {task.marker.name}, which is tried again")


class RayEngine(_Engine):
    """Workers of a Ray cluster (extra `ray`): the one at `address` or RAY_ADDRESS, or one started on this machine.

    `workers`: at most so many tasks at a time. A Ray that this program has joined before is used, and stays at `close`.
    What Ray says about its processes is in its own logs, and nothing is sent to its makers.
    """

    AHEAD = 1000
    """Tasks that are handed to the cluster at a time, if it has not more cores: waiting for one costs time for each."""

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        _check_workers(workers)
        os.environ.update(_RAY_SETTINGS)  # before the import, which reads some of them
        self._ray = optional("ray", "ray")
        self._joined_before = self._ray.is_initialized()
        self._workers = workers
        if not self._joined_before:
            self._join(address)
        self._remote = self._ray.remote(perform).options(max_retries=ATTEMPTS - 1, num_cpus=1)

    def _join(self, address: str | None) -> None:
        try:
            _check_answers(address or os.environ.get("RAY_ADDRESS", ""))
            dashboard = False if address is None else None
            self._ray.init(address, log_to_driver=False, logging_level="ERROR", include_dashboard=dashboard)
        except (OSError, ValueError, RuntimeError) as error:
            told = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"no Ray cluster answers at {address or 'this machine'}: {told}") from None

    def _done(self, tasks: Sequence[Task], waiting: Sequence[int]) -> Iterator[tuple[int, Any]]:
        ahead = self._workers or max(self.AHEAD, 2 * int(self._ray.cluster_resources().get("CPU", 0)))
        coming, running = iter(waiting), dict[Any, int]()
        try:
            while True:
                for place in islice(coming, ahead - len(running)):
                    running[self._remote.remote(tasks[place])] = place
                if not running:
                    return
                (done, *_), _ = self._ray.wait(list(running))
                place = running.pop(done)
                yield place, self._get(done, tasks[place])
        finally:
            for reference in running:
                self._ray.cancel(reference)

    def _get(self, done: Any, task: Task) -> Any:
        """What a task returned, or the error that it raised; a fault of the cluster as one sentence."""
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(done)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, exceptions.RayError):
                raise self._fault(error.cause, task) from None
            error.cause.add_note(f"raised in a worker:\n{error}")
            raise error.cause from None
        except exceptions.RayError as error:
            raise self._fault(error, task) from None

    def _fault(self, error: Exception, task: Task) -> Exception:
        exceptions = self._ray.exceptions
        if isinstance(error, (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError, exceptions.NodeDiedError)):
            return StorageError(
                f"workers were killed at all {ATTEMPTS} tries of {task.marker}; give them more memory, and run the "
                "command again"
            )
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        return ConfigError(f"the Ray cluster cannot run a task ({told}); its machines need f2llm in this version")

    def rest(self) -> None:
        """Ray ends idle workers by itself."""

    def close(self) -> None:
        if not self._joined_before:
            self._ray.shutdown()


def _check_answers(address: str) -> None:
    """An OSError within seconds where nobody listens at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), min(int(port), 65_535)), timeout=5).close()


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 1:
        raise ConfigError(f"--workers {workers}: at least one is needed")


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
