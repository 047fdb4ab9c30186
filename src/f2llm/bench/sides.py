"""The programs that `f2llm bench encode` and `bench query` set side by side, each in a fresh process of its own.

A process of its own, because the allocator's settings hold for a whole process, and so that the resident memory is
that of one program. Whoever is not asked sleeps. Every side has the same number of threads.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from f2llm.bench.training import machine_rate, seconds
from f2llm.core.allocator import tune_allocator
from f2llm.core.errors import F2LLMError, ModelError
from f2llm.core.extras import optional
from f2llm.core.machine import memory_mb
from f2llm.model.vectors import Vectors, normalize

PEER_BATCHES = (8, 32, 128)
PEER_DEFAULT = 32
"""The batch size of sentence-transformers where nobody gives one."""


class _Program(Protocol):
    def documents(self, texts: Sequence[str], batch_size: int) -> Any:
        """Vectors of the texts; the batch size is the peer's."""

    def query(self, text: str) -> Any:
        """The vector of a query with the model's own prompt."""


class _Ours:
    def __init__(self, directory: Path, engine: str, weights: str) -> None:
        from f2llm.model.embedder import Embedder

        self.embedder = Embedder.load(directory, engine=engine, dtype=getattr(torch, weights))

    def documents(self, texts: Sequence[str], batch_size: int) -> Any:
        return self.embedder.encode_document(texts)

    def query(self, text: str) -> Any:
        return self.embedder.encode_query(text)


class _Peer:
    def __init__(self, directory: Path, backend: str) -> None:
        package = optional("sentence_transformers", "mine")
        options = {"model_kwargs": {"load_in_8bit": True}} if backend == "openvino" else {}
        self.model = package.SentenceTransformer(str(directory), device="cpu", backend=backend, **options)

    def documents(self, texts: Sequence[str], batch_size: int) -> Any:
        return self.model.encode_document(texts, batch_size=batch_size, show_progress_bar=False)

    def query(self, text: str) -> Any:
        return self.model.encode_query(text, show_progress_bar=False)


class Side:
    """A program in its process; a context manager. `tuned`: with the allocator's settings of this package.

    `program` is "f2llm", with an `engine` of this package and the type of its `weights`, or "sentence-transformers",
    with one of its backends.
    """

    def __init__(
        self,
        program: str,
        directory: Path,
        threads: int,
        *,
        engine: str = "torch",
        weights: str = "float32",
        tuned: bool,
    ) -> None:
        self.program = program
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        arguments = (other, program, directory, threads, engine, weights, tuned)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        other.close()
        self._receive()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join(10)

    def vectors(self, texts: Sequence[str], queries: Sequence[str] = ()) -> Vectors:
        """Unit vectors of the texts, and behind them those of the queries."""
        return normalize(self._ask("vectors", list(texts), list(queries)))

    def document_seconds(self, texts: Sequence[str], batch_size: int = PEER_DEFAULT) -> float:
        return float(self._ask("document_seconds", list(texts), batch_size))

    def best_batch(self, texts: Sequence[str]) -> int:
        """The batch size that is fastest here."""
        return min(PEER_BATCHES, key=lambda size: self.document_seconds(texts, size))

    def query_seconds(self, queries: Sequence[str]) -> list[float]:
        """Seconds of each query, asked one after the other."""
        found: list[float] = self._ask("query_seconds", list(queries))
        return found

    def matrix_rate(self) -> float:
        """Operations a second of a large matrix product in this process, measured now."""
        return float(self._ask("matrix_rate"))

    def memory_mb(self) -> float | None:
        """Resident memory of the process now."""
        found: float | None = self._ask("memory")
        return found

    def _ask(self, name: str, *arguments: Any) -> Any:
        self._connection.send((name, arguments))
        return self._receive()

    def _receive(self) -> Any:
        try:
            fine, answer = self._connection.recv()
        except EOFError:
            raise ModelError(f"the process of {self.program} ended early, perhaps for want of memory") from None
        if not fine:
            raise ModelError(f"{self.program}: {answer}")
        return answer


def openvino_peer() -> bool:
    """Whether sentence-transformers' OpenVINO backend can run here."""
    return all(importlib.util.find_spec(name) for name in ("openvino", "optimum")) and bool(
        importlib.util.find_spec("optimum.intel")
    )


def _serve(
    connection: Connection, program: str, directory: Path, threads: int, engine: str, weights: str, tuned: bool
) -> None:
    """Load the program, say that it is ready, then answer until the other end is closed."""
    torch.set_num_threads(threads)
    if tuned:
        tune_allocator()
    try:
        loaded = _Ours(directory, engine, weights) if program == "f2llm" else _Peer(directory, engine)
    except (F2LLMError, OSError, ValueError, ImportError) as error:
        connection.send((False, str(error).splitlines()[0]))
        return
    connection.send((True, None))
    answers = _Answers(loaded)
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        connection.send((True, getattr(answers, name)(*arguments)))


class _Answers:
    def __init__(self, program: _Program) -> None:
        self.program = program

    def vectors(self, texts: list[str], queries: list[str]) -> Any:
        found = [np.asarray(self.program.documents(texts, PEER_DEFAULT))] if texts else []
        return np.concatenate([*found, *(np.asarray(self.program.query(text))[None] for text in queries)])

    def document_seconds(self, texts: list[str], batch_size: int) -> float:
        return seconds(lambda: self.program.documents(texts, batch_size))

    def query_seconds(self, queries: list[str]) -> list[float]:
        found = []
        for text in queries:
            started = time.perf_counter()
            self.program.query(text)
            found.append(time.perf_counter() - started)
        return found

    def matrix_rate(self) -> float:
        return machine_rate(torch.device("cpu"), "fp32")

    def memory(self) -> float | None:
        return memory_mb()
