"""metrics.jsonl: one JSON object per training step, flushed, and cut back to the checkpoint when a run is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from f2llm.core.files import write_text


class MetricsLog:
    """Appends the steps of a run to `path`; entries at or after `step` of an earlier attempt are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] < step]
        write_text(path, "".join(line + "\n" for line in kept))
        self._handle = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open for the length of the run)

    def write(self, entry: dict[str, Any]) -> None:
        self._handle.write(json.dumps(entry) + "\n")
        self._handle.flush()

    def close(self) -> None:
        self._handle.close()


def _complete_lines(path: Path) -> list[str]:
    """Lines that ended before the process did."""
    if not path.exists():
        return []
    return [line[:-1] for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
