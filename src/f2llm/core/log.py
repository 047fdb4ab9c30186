"""What a person sees while something runs: lines and progress bars on standard error, never on standard output."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

T = TypeVar("T")
console = Console(stderr=True, highlight=False, soft_wrap=True)
_LINE_EVERY_S = 15.0


def silence() -> None:
    """Say nothing from now on: one of several processes speaks for all."""
    console.quiet = True


def log(message: str) -> None:
    """One line on standard error (rich markup allowed)."""
    console.print(message)


def warn(message: str) -> None:
    """A line that should be noticed; the run goes on."""
    console.print(f"[yellow]warning:[/yellow] {message}")


def print_wide(out: Console, table: Table, limit: int = 10_000) -> None:
    """Print a table as wide as it needs (up to `limit`): a narrower terminal wraps its lines, and no cell is cut."""
    needed = out.measure(table, options=out.options.update(width=limit)).maximum
    Console(file=out.file, width=max(out.width, needed), highlight=False).print(table)


@contextmanager
def hushed() -> Iterator[None]:
    """Say nothing inside the block, where a caller sums up what many calls would say."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


class Bar:
    """A progress bar with ETA; where standard error is no terminal, a line every 15 seconds instead.

    Use as a context manager; `advance(n, note)` moves it on. A bar shorter than two seconds leaves nothing behind.
    """

    def __init__(self, description: str, total: int | None) -> None:
        self.description, self.total, self.done = description, total, 0
        self._started = self._last_line = time.monotonic()
        self._progress: Progress | None = None

    def __enter__(self) -> Bar:
        if console.is_terminal and not console.quiet:
            self._progress = Progress(
                TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
                console=console, transient=True,
            )  # fmt: skip
            self._progress.start()
            self._task = self._progress.add_task(self.description, total=self.total, note="")
        return self

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount
        if self._progress is not None:
            self._progress.update(self._task, advance=amount, note=note)
        elif not console.quiet and time.monotonic() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.monotonic()
            print(f"  {self.description}: {self._state()} {note}".rstrip(), file=sys.stderr, flush=True)

    def _state(self) -> str:
        if not self.total:
            return f"{self.done:,}"
        elapsed = time.monotonic() - self._started
        remaining = elapsed / max(self.done, 1) * (self.total - self.done)
        return f"{self.done:,}/{self.total:,}, ETA {remaining:.0f} s"

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Bar(description, total) as bar:
        for item in items:
            yield item
            bar.advance()
