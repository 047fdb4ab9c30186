"""What the workers of the engine tests do; each run leaves a file of its own, so runs can be counted by anybody.

As a program it is a parent that a test may kill: python -m tests.data.engine_work FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from f2llm.core.errors import DataError
from f2llm.core.files import write_text
from f2llm.data.engine import LocalEngine, Task

PARENT_TASKS = 6


def note(folder: Path, name: str) -> None:
    """Leave a file that says that `name` ran in this process."""
    write_text(folder / "runs" / f"{name}.{uuid.uuid4().hex}", str(os.getpid()))


def noted(folder: Path) -> Counter[str]:
    """How often each name ran."""
    return Counter(path.name.partition(".")[0] for path in (folder / "runs").glob("[!.]*"))


def square(folder: Path, number: int, pause: float = 0.0) -> dict[str, Any]:
    note(folder, str(number))
    time.sleep(pause)
    return {"number": number, "square": number * number, "words": ["été", None, 0.1]}


def square_or_fail(folder: Path, number: int, bad: int) -> int:
    """Number `bad` fails once the one before it is done."""
    if number == bad:
        wait_for(folder / f"square_or_fail-{number - 1}.json")
        raise DataError(f"row {number} is broken; mend it")
    note(folder, str(number))
    return number * number


def killed_once(folder: Path, number: int) -> int:
    """Kill this process by SIGKILL in the middle of the first run."""
    note(folder, f"started-{number}")
    before = folder / f"killed-{number}"
    if not before.exists():
        write_text(before, "")
        os.kill(os.getpid(), signal.SIGKILL)
    note(folder, f"ended-{number}")
    return number


def outlives(folder: Path, number: int, other: int) -> int:
    """A run that begins before another worker is killed and ends after it."""
    note(folder, f"started-{number}")
    wait_for(folder / f"killed-{other}")
    time.sleep(1.0)
    note(folder, f"ended-{number}")
    return number


def always_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def divide(number: int) -> float:
    return number / 0


def fails_strangely() -> None:
    raise StrangeError("a", "b")


class StrangeError(Exception):
    """An exception that cannot be read back from its pickled form."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} and {right}")


def threads() -> dict[str, Any]:
    """How many threads the libraries that cleaning uses would start here."""
    import numpy  # noqa: F401 (loads OpenBLAS)
    import pyarrow
    from threadpoolctl import threadpool_info

    return {
        "arrow": pyarrow.cpu_count(),
        "blas": [pool["num_threads"] for pool in threadpool_info()],
        "rayon": os.environ.get("RAYON_NUM_THREADS"),
    }


def told_of_telemetry() -> str | None:
    return os.environ.get("RAY_USAGE_STATS_ENABLED")


def slow_after_two(folder: Path, number: int) -> int:
    """The first two end at once; the others not before the file `go` is there."""
    note(folder, f"started-{number}")
    if number >= 2:
        wait_for(folder / "go", 60)
    note(folder, f"ended-{number}")
    return number


def wait_for(path: Path, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.02)


def parent_tasks(folder: Path) -> list[Task]:
    return [
        Task(folder / f"{number}.json", slow_after_two, {"folder": folder, "number": number})
        for number in range(PARENT_TASKS)
    ]


if __name__ == "__main__":
    # This file is another module here than in the workers, which import it by its name.
    from tests.data import engine_work

    engine = LocalEngine(workers=2)
    print(engine.map(engine_work.parent_tasks(Path(sys.argv[1])), "parent"))
    engine.close()
