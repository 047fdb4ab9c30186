"""metrics.jsonl, one JSON object a line, and the means and rates made from its entries.

A training entry has the 0-based index of its step in "step". An entry of another kind says so in "kind"
and counts finished steps. A validation entry holds "loss" and "by_source" (source -> loss, or a dict with a "loss").
An "evaluation" entry holds what its scorer found ("ndcg@10" and "accuracy@1", also "by_language" and "by_source"), or
the "error" that stopped it.
Floats are written so that they read back to the bit; JSON has no NaN and no infinity, so these become null.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from f2llm.core.errors import DataError
from f2llm.core.files import atomic_path, explained

Entry = dict[str, Any]
PARTS = ("hard", "in_batch", "distill", "hidden", "spread_out")
"""The parts of the loss that an entry may hold beside "loss"."""
SCORE = "ndcg@10"
"""The score of an evaluation that is shown where there is room for one."""


class MetricsLog:
    """Appends to `path`, flushed at every line; what a run resumed after `step` steps will write again is cut off.

    Training entries stay below `step`, entries of another kind up to and with `step`. The cut streams and is atomic.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        with atomic_path(path) as temporary, open(temporary, "wb") as cut:
            for line, entry in _lines(path):
                if entry["step"] < step + ("kind" in entry):
                    cut.write(line)
        with explained(path):
            self._handle = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open for the length of the run)

    def write(self, entry: Mapping[str, Any]) -> None:
        with explained(self.path):
            self._handle.write(_json(entry) + "\n")
            self._handle.flush()

    def sync(self) -> None:
        """Flush to the disk, so that a checkpoint never outlives the lines before it."""
        with explained(self.path):
            os.fsync(self._handle.fileno())

    def close(self) -> None:
        self._handle.close()


def read_metrics(path: Path) -> Iterator[Entry]:
    """The entries of a metrics.jsonl, one at a time; a line that a killed process left unfinished is passed over."""
    if not path.exists():
        raise DataError(f"{path} does not exist; train first, or name the metrics.jsonl of another run")
    return (entry for _, entry in _lines(path))


def _lines(path: Path) -> Iterator[tuple[bytes, Entry]]:
    """The whole lines of a log with what they say."""
    if not path.exists():
        return
    with open(path, "rb") as handle:
        for line in handle:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:  # zeros where the machine lost power
                continue
            if isinstance(entry, dict) and "step" in entry:
                yield line, entry


def _json(entry: Mapping[str, Any]) -> str:
    try:
        return json.dumps(entry, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(entry), ensure_ascii=False, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def flatten(entry: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of an entry under names like "by_language/deu_Latn"; "step", texts and lists are left out."""
    flat: dict[str, float] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and prefix + key != "step":
            flat[prefix + key] = float(value)
    return flat


class Mean:
    """A weighted mean from its exact sums."""

    __slots__ = ("total", "weight")

    def __init__(self) -> None:
        self.total = self.weight = 0.0

    def add(self, total: float, weight: float) -> None:
        self.total += total
        self.weight += weight

    @property
    def value(self) -> float:
        return self.total / self.weight if self.weight else math.nan


class Averages:
    """Means over the training entries since the last `summary`, over rows and not over steps.

    An entry has "loss", "rows", "tokens" and "seconds", and may have "source", "task_type", the parts of the loss,
    "grad_norm" (mean over steps), "floor_share" (over seconds), "lr" and "memory_mb" (the last value counts) and
    "languages": {tag: [sum of the row losses, rows]}. Cost: some dict updates a step.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._means: dict[tuple[str, str], Mean] = {}
        self._rates = _Rates()
        self._last: dict[str, float] = {}

    def add(self, entry: Mapping[str, Any]) -> None:
        """Count one training entry."""
        rows = entry["rows"]
        self._rates.add(entry)
        self._last |= {name: entry[name] for name in ("lr", "memory_mb") if name in entry}
        weights = dict.fromkeys(("loss", *PARTS), rows) | {"grad_norm": 1, "floor_share": entry["seconds"]}
        for name, weight in weights.items():
            if name in entry:
                self._count("", name, entry[name] * weight, weight)
        for group, key in (("by_source", "source"), ("by_task", "task_type")):
            if key in entry:
                self._count(group, entry[key], entry["loss"] * rows, rows)
        for tag, (total, count) in entry.get("languages", {}).items():
            self._count("by_language", tag, total, count)

    def _count(self, group: str, name: str, total: float, weight: float) -> None:
        self._means.setdefault((group, name), Mean()).add(total, weight)

    def note(self) -> str:
        """What the progress bar says: the mean loss and the speed since the last summary."""
        loss, speed = self._means.get(("", "loss")), self._rates.summary().get("tokens_per_s")
        said = [f"loss {loss.value:.3f}" if loss else "", f"{speed:,.0f} tokens/s" if speed else ""]
        return ", ".join(part for part in said if part)

    def summary(self) -> Entry:
        """The means and the rates since the last call, then start anew; {} if nothing was added."""
        if not self._means:
            return {}
        found: Entry = {name: mean.value for (group, name), mean in self._means.items() if not group}
        for group in ("by_source", "by_task", "by_language"):
            found[group] = {name: mean.value for (of, name), mean in sorted(self._means.items()) if of == group}
        found |= self._last | self._rates.summary()
        self._reset()
        return found


class _Rates:
    """Sums of steps, rows, tokens and seconds."""

    def __init__(self) -> None:
        self.steps, self.rows, self.tokens, self.seconds = 0, 0, 0, 0.0

    def add(self, entry: Mapping[str, Any]) -> None:
        self.steps += 1
        self.rows += entry["rows"]
        self.tokens += entry["tokens"]
        self.seconds += entry["seconds"]

    def summary(self) -> dict[str, float]:
        found: dict[str, float] = {"steps": self.steps, "rows": self.rows, "tokens": self.tokens}
        found["seconds"] = self.seconds
        if self.seconds > 0:
            found |= {f"{name}_per_s": found[name] / self.seconds for name in ("steps", "rows", "tokens")}
        return found
