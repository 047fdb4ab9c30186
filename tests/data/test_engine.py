"""The engine gives the same results wherever it runs; nothing is lost or doubled, whoever is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from f2llm.core.errors import ConfigError, DataError, MissingDependencyError, StorageError
from f2llm.core.files import read_json
from f2llm.core.machine import cores
from f2llm.data import engine as module
from f2llm.data.engine import Engine, LocalEngine, RayEngine, Task, finished, make_engine
from tests.data import engine_work as work

EVERYWHERE = pytest.mark.parametrize("engine", ["here", "processes", "ray"], indirect=True)
ELSEWHERE = pytest.mark.parametrize("engine", ["processes", "ray"], indirect=True)
NEEDS_PROC = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes in /proc")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayEngine]:
    """A Ray cluster on this machine, for the whole file."""
    if find_spec("ray") is None:  # not imported here, for the engine says first how Ray is to behave
        pytest.skip("the package ray is not installed (extra `ray`)")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
        found = RayEngine(workers=2)
        yield found
        found.close()


@pytest.fixture(scope="module")
def processes() -> Iterator[LocalEngine]:
    found = LocalEngine(workers=2)
    yield found
    found.close()


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "here":
        return LocalEngine(workers=1)
    found: Engine = request.getfixturevalue({"processes": "processes", "ray": "cluster"}[request.param])
    return found


def make(folder: Path, run: Callable[..., Any], number: int, **arguments: Any) -> Task:
    return Task(folder / f"{run.__name__}-{number}.json", run, {"folder": folder, "number": number, **arguments})


# ---- results and markers


@EVERYWHERE
def test_results_come_in_order_and_are_the_same_everywhere(engine: Engine, tmp_path: Path) -> None:
    tasks = [make(tmp_path, work.square, number, pause=0.2 if number == 0 else 0.0) for number in range(9)]
    expected = [{"number": n, "square": n * n, "words": ["été", None, 0.1]} for n in range(9)]
    assert engine.map(tasks, "squares") == expected
    assert [read_json(task.marker)["result"] for task in tasks] == expected


@EVERYWHERE
def test_only_what_is_new_changed_or_damaged_runs(engine: Engine, tmp_path: Path) -> None:
    first = [make(tmp_path, work.square, number) for number in range(5)]
    results = engine.map(first, "first")
    assert engine.map(first, "again") == results
    assert work.noted(tmp_path) == {str(n): 1 for n in range(5)}
    changed = make(tmp_path, work.square, 1, pause=0.01)
    assert changed.marker == first[1].marker
    first[2].marker.write_text('{"fingerprint": "')
    first[3].marker.unlink()
    assert engine.map([first[0], changed, *first[2:]], "some") == results
    assert work.noted(tmp_path) == {"0": 1, "1": 2, "2": 2, "3": 2, "4": 1}


@pytest.mark.parametrize("damage", ["", "null", "[]", '{"result": 1}', '{"fingerprint": 1, "result": 1}', "\udcff"])
def test_a_damaged_marker_is_none(damage: str, tmp_path: Path) -> None:
    task = make(tmp_path, work.square, 1)
    task.marker.write_bytes(damage.encode("utf-8", "surrogateescape"))
    assert finished(task) is None


def test_a_fingerprint_is_of_the_function_and_of_all_arguments(tmp_path: Path) -> None:
    runs = [work.square, work.killed_once, partial(work.square, pause=0.1), partial(work.square, pause=0.2)]
    arguments: list[dict[str, Any]] = [
        {"number": 1}, {"number": 2}, {"numbers": 1}, {"number": "1"}, {"in": {"a": [1, 2]}}, {"in": {"a": [2, 1]}},
        {"path": tmp_path / "a"}, {"path": tmp_path / "b"}, {"run": work.square}, {"run": partial(work.square, 1)},
    ]  # fmt: skip
    tasks = [Task(tmp_path / "m", run, given) for run in runs for given in arguments]
    assert len({task.fingerprint() for task in tasks}) == len(tasks)
    left, right = (Task(tmp_path / "m", work.square, {"a": 1, "b": {"c": (1, 2)}}, rows) for rows in (1, 9))
    other = Task(tmp_path / "n", work.square, {"b": {"c": [1, 2]}, "a": 1})
    assert left.fingerprint() == right.fingerprint() == other.fingerprint()


def test_small_work_is_done_in_this_process(tmp_path: Path) -> None:
    engine = LocalEngine()
    engine.map([make(tmp_path, work.square, number) for number in range(3)], "small")
    assert {path.read_text() for path in (tmp_path / "runs").iterdir()} == {str(os.getpid())}


# ---- errors


@EVERYWHERE
def test_an_error_of_the_tree_arrives_as_itself(engine: Engine, tmp_path: Path) -> None:
    tasks = [make(tmp_path, work.square_or_fail, number, bad=3) for number in range(6)]
    with pytest.raises(DataError) as caught:
        engine.map(tasks, "rows")
    assert type(caught.value) is DataError
    assert str(caught.value) == "row 3 is broken; mend it"
    done = {number for number, task in enumerate(tasks) if finished(task)}
    assert {0, 1, 2} <= done <= {0, 1, 2, 4, 5}
    before = work.noted(tmp_path)
    with pytest.raises(DataError):
        engine.map(tasks, "rows again")
    after = work.noted(tmp_path)
    assert {number: after[str(number)] for number in done} == {number: before[str(number)] for number in done}


@ELSEWHERE
def test_a_programming_mistake_keeps_its_type_and_says_where(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        engine.map([Task(tmp_path / f"{number}.json", work.divide, {"number": number}) for number in range(2)], "no")
    assert "engine_work.py" in caught.value.__notes__[0]


def test_an_exception_that_cannot_be_read_back_is_told_all_the_same(processes: LocalEngine, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="StrangeError: a and b"):
        processes.map([Task(tmp_path / f"{number}.json", work.fails_strangely, {}) for number in range(2)], "strange")


# ---- killed workers


@ELSEWHERE
def test_a_killed_worker_loses_and_doubles_nothing(engine: Engine, tmp_path: Path) -> None:
    """Its own task runs again; the one beside it goes on. More workers are killed than a single task may kill."""
    tasks = [make(tmp_path, work.outlives, 0, other=1), *(make(tmp_path, work.killed_once, n) for n in range(1, 6))]
    assert engine.map(tasks, "killed") == list(range(6))
    ran = work.noted(tmp_path)
    assert {name: count for name, count in ran.items() if name.startswith("ended")} == {
        f"ended-{n}": 1 for n in range(6)
    }
    assert [ran[f"started-{n}"] for n in range(6)] == [1, 2, 2, 2, 2, 2]


@ELSEWHERE
def test_a_task_that_always_kills_its_worker_is_one_sentence(
    engine: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    others = [make(tmp_path, work.square, number) for number in range(4)]
    with pytest.raises(StorageError) as caught:
        engine.map([*others, Task(tmp_path / "hungry.json", work.always_killed, {})], "hungry")
    assert "hungry.json" in str(caught.value)
    assert "memory" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert engine.map(others, "others") == [work.square(tmp_path, number) for number in range(4)]
    time.sleep(1.0)
    assert capfd.readouterr().out == ""


@NEEDS_PROC
def test_a_killed_parent_takes_its_workers_along_and_a_second_run_goes_on(tmp_path: Path) -> None:
    first = start_parent(tmp_path)
    for number in range(2):
        work.wait_for(tmp_path / f"{number}.json")
    wait_until(lambda: work.noted(tmp_path)["started-2"] + work.noted(tmp_path)["started-3"] == 2)
    workers = children(first.pid)
    assert len(workers) >= 2
    first.kill()
    first.communicate()
    wait_until(lambda: not any(map(alive, workers)), seconds=3)
    (tmp_path / "go").touch()
    second = start_parent(tmp_path)
    assert second.communicate(timeout=30) == (f"{list(range(work.PARENT_TASKS))}\n", "")
    ended = {f"ended-{number}": 1 for number in range(work.PARENT_TASKS)}
    started = {f"started-{number}": 1 + (number in (2, 3)) for number in range(work.PARENT_TASKS)}
    assert work.noted(tmp_path) == ended | started


@NEEDS_PROC
def test_ctrl_c_ends_everything_at_once_and_quietly(tmp_path: Path) -> None:
    """It reaches the workers too; only the parent may say something."""
    parent = start_parent(tmp_path, start_new_session=True)
    wait_until(lambda: work.noted(tmp_path)["started-2"] + work.noted(tmp_path)["started-3"] == 2)
    workers = children(parent.pid)
    os.killpg(parent.pid, signal.SIGINT)
    _, said = parent.communicate(timeout=5)
    assert said.count("Traceback") == 1
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    wait_until(lambda: not any(map(alive, workers)), seconds=1)


def start_parent(folder: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.data.engine_work", str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, cwd=Path(__file__).parents[2], **pipes, **options)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be read by its parent has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- options


@pytest.mark.parametrize("kind", ["local", "ray"])
def test_at_least_one_worker_is_needed(kind: module.EngineKind) -> None:
    with pytest.raises(ConfigError, match="--workers 0"):
        make_engine(kind, workers=0)


def test_an_address_needs_ray() -> None:
    with pytest.raises(ConfigError, match="add --engine ray"):
        make_engine(address="10.0.0.1:6379")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"f2llm\[ray\]"):
        make_engine("ray")


@pytest.mark.parametrize("scheme", ["", "ray://"])
@pytest.mark.parametrize("where", ["127.0.0.1", "[::1]", "no-such-host.invalid"])
def test_where_no_cluster_answers_is_one_sentence_within_seconds(
    scheme: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="the package ray is not installed (extra `ray`)")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    started, address = time.monotonic(), f"{scheme}{where}:{free_port()}"
    with pytest.raises(ConfigError) as caught:
        make_engine("ray", address=address)
    assert time.monotonic() - started < 10
    assert f"no Ray cluster answers at {address}" in str(caught.value)
    assert "\n" not in str(caught.value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_each_worker_has_its_share_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "cores", lambda: 7)
    engine = LocalEngine(workers=2)
    found = engine.map([Task(tmp_path / f"{number}.json", work.threads, {}) for number in range(2)], "threads")
    engine.close()
    assert [told["rayon"] for told in found] == ["3", "3"]
    assert [told["arrow"] for told in found] == [3, 3]
    assert all(told["blas"] and max(told["blas"]) <= 3 for told in found)


# ---- Ray


def test_a_worker_of_ray_has_one_core_and_nothing_is_sent_to_its_makers(cluster: RayEngine, tmp_path: Path) -> None:
    tasks = [
        Task(tmp_path / "threads.json", work.threads, {}),
        Task(tmp_path / "told.json", work.told_of_telemetry, {}),
    ]
    threads, telemetry = cluster.map(tasks, "settings")
    assert threads["arrow"] == 1
    assert threads["blas"] == [1]
    assert telemetry == os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_few_tasks_are_at_the_cluster_at_a_time(
    cluster: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To wait for one of N costs time in proportion to N: with all tasks there, it would grow with their square."""
    monkeypatch.setattr(cluster, "_workers", None)
    monkeypatch.setattr(RayEngine, "AHEAD", 8)
    wait, seen = cluster._ray.wait, list[int]()
    monkeypatch.setattr(cluster._ray, "wait", lambda running: (seen.append(len(running)), wait(running))[1])
    tasks = [make(tmp_path, work.square, number) for number in range(30)]
    assert [result["number"] for result in cluster.map(tasks, "many")] == list(range(30))
    assert len(seen) == 30
    assert max(seen) == max(8, 2 * cores())


def test_a_cluster_without_the_code_is_one_sentence(
    cluster: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def run() -> int:\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = import_module("only_here").run
    with pytest.raises(ConfigError) as caught:
        cluster.map([Task(tmp_path / "run.json", run, {})], "absent")
    assert "No module named 'only_here'" in str(caught.value)
    assert "machines need f2llm" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_engine_leaves_the_ray_of_its_program_alone(cluster: RayEngine, tmp_path: Path) -> None:
    guest = make_engine("ray", workers=1)
    assert guest.map([make(tmp_path, work.square, 3)], "guest")[0]["square"] == 9
    guest.close()
    assert cluster.map([make(tmp_path, work.square, 4)], "host")[0]["square"] == 16
