"""The engine that runs OpenVINO on a CPU: the same vectors as PyTorch's, by another compiler.

Texts are sorted by length and computed in batches of about equal lengths, padded on the right; attention is causal, so
padding changes nothing and a text's states do not depend on its company. A prefix's keys and values are computed once
and kept, for the prefixes used last.

`float32` has the states of the PyTorch engine up to rounding (cosine > 0.99999). `int8` holds weights and token table
in 8 bits, a quarter of the memory (docs/results/openvino.md has its loss); on processors with VNNI or AMX OpenVINO may
also multiply in 8 bits, and rounds a little differently then; on others it is slower. bfloat16, which OpenVINO would
choose on some processors by itself, is switched off.

Cost: building and compiling takes seconds, so the compiled graph is kept in the user's cache directory, under a digest
of the weights and all versions; a directory that cannot be written is done without. Memory: the weights, one batch,
and 4 bytes for each pair of tokens of the longest text. Threads: those of the machine, or `threads`.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2llm.core.errors import ConfigError, StorageError
from f2llm.core.files import atomic_path, digest_file, digest_json
from f2llm.core.machine import cores
from f2llm.model import checkpoint
from f2llm.model.decoder import Decoder
from f2llm.model.engines.base import Ids
from f2llm.model.graph import Precision
from f2llm.model.graph_openvino import engine_graph, load_openvino
from f2llm.model.sizes import Shape
from f2llm.model.vectors import Vectors
from f2llm.model.weights import LoadedWeights, StoredWeights, weight_files

BATCH_TOKENS = 1024  # padded; enough for the matrix kernels, little enough to stay near the caches
_PADDED = 0.125  # of a text's length: so much longer may the batch's longest be
_PREFIXES = 8
_FORMAT = 1
_GROUP = 32  # activations that share a scale where the processor multiplies in 8 bits


class OpenVinoEngine:
    """See the module; `f2llm.model.engines.base.Engine` says what `embed` promises. Safe to call from many threads."""

    name, device = "openvino", "cpu"

    def __init__(self, compiled: Any, shape: Shape) -> None:
        self.width, self.shape = shape.hidden, shape
        self._compiled, self._lock = compiled, Lock()
        self._idle: list[Any] = []
        self._kept: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._none = np.zeros((2 * shape.layers, shape.kv_heads, 0, shape.head_dim), dtype=np.float32)

    @classmethod
    def load(
        cls,
        directory: Path | str,
        *,
        precision: Precision = "float32",
        threads: int | None = None,
        cache: Path | None = None,
    ) -> OpenVinoEngine:
        """From a model directory; the compiled graph is kept in `cache` (default: `cache_directory()`)."""
        directory, settings = Path(directory), _settings(precision, threads)
        shape, core = checkpoint.read_shape(directory), load_openvino().Core()
        path = (cache or cache_directory()) / f"openvino-{_digest(core, directory, precision, settings)}.blob"
        compiled = _stored(core, path, settings)
        if compiled is None:
            graph = engine_graph(StoredWeights(directory, shape), precision)
            compiled = core.compile_model(graph, "CPU", settings)
            _store(compiled, path)
        return cls(compiled, shape)

    @classmethod
    def from_decoder(
        cls, decoder: Decoder, *, precision: Precision = "float32", threads: int | None = None
    ) -> OpenVinoEngine:
        """From weights in memory; nothing is kept on the disk."""
        settings, graph = _settings(precision, threads), engine_graph(LoadedWeights(decoder), precision)
        return cls(load_openvino().Core().compile_model(graph, "CPU", settings), decoder.shape)

    def embed(self, texts: Sequence[Ids], prefix: Ids | None = None) -> Vectors:
        """Last-token states [N, width] of token ids, each text read after `prefix`; see the protocol."""
        states = np.empty((len(texts), self.width), dtype=np.float32)
        before = self._none if prefix is None or len(prefix) == 0 else self._keys_values(prefix)
        for rows in batches([len(text) for text in texts]):
            states[rows] = self._infer([texts[row] for row in rows], before)[0]
        return states

    def _keys_values(self, prefix: Ids) -> NDArray[np.float32]:
        """[2 * layers, kv_heads, P, d] of a prefix, computed where it is not among the kept."""
        name = np.asarray(prefix, dtype=np.int64).tobytes()
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        made = np.concatenate(self._infer([prefix], self._none, keep=len(prefix))[1:])
        with self._lock:
            self._kept[name] = made
            while len(self._kept) > _PREFIXES:
                self._kept.popitem(last=False)
        return made

    def _infer(self, texts: Sequence[Ids], before: NDArray[np.float32], keep: int = 0) -> list[NDArray[np.float32]]:
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        ids = np.zeros((len(texts), int(lengths.max())), dtype=np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
        with self._lock:
            request = self._idle.pop() if self._idle else self._compiled.create_infer_request()
        found = request.infer([ids, lengths - 1, before, np.array([keep])], share_inputs=True, share_outputs=True)
        outputs = [found[output].copy() for output in self._compiled.outputs[: None if keep else 1]]
        with self._lock:
            self._idle.append(request)
        return outputs


def batches(lengths: Sequence[int], batch_tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Row numbers in batches of about equal lengths, at most `batch_tokens` padded tokens or one row; longest first."""
    batch: list[int] = []
    longest = 0
    for row in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        full = (len(batch) + 1) * longest > batch_tokens or lengths[row] * (1 + _PADDED) < longest
        if batch and full:
            yield batch
            batch = []
        longest = longest if batch else lengths[row]
        batch.append(row)
    if batch:
        yield batch


def cache_directory() -> Path:
    """Where compiled graphs are kept: $F2LLM_CACHE, else f2llm in $XDG_CACHE_HOME, else in ~/.cache."""
    own = os.environ.get("F2LLM_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "f2llm"


def _settings(precision: Precision, threads: int | None) -> dict[str, Any]:
    if precision not in ("float32", "int8"):
        raise ConfigError(f"precision is {precision!r}; the OpenVINO engine has float32 and int8")
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads or cores(),
        "INFERENCE_PRECISION_HINT": "f32",  # else processors with AMX take bfloat16
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP if precision == "int8" else 0,
        "ENABLE_CPU_PINNING": False,  # two processes would be pinned to the same cores
    }


def _digest(core: Any, directory: Path, precision: Precision, settings: dict[str, Any]) -> str:
    """What decides the compiled graph: weights, shape, package, processor, settings."""
    weights = [digest_file(file) for file in weight_files(directory)]
    machine = [load_openvino().__version__, core.get_property("CPU", "FULL_DEVICE_NAME")]
    shape = checkpoint.config_of(checkpoint.read_shape(directory))
    return digest_json([_FORMAT, weights, shape, machine, precision, settings])[:32]


def _stored(core: Any, path: Path, settings: dict[str, Any]) -> Any | None:
    """The compiled graph kept at `path`; None where there is none that this package reads."""
    if not path.is_file():
        return None
    with suppress(RuntimeError, OSError):
        return core.import_model(path.read_bytes(), "CPU", settings)
    return None


def _store(compiled: Any, path: Path) -> None:
    with suppress(StorageError), atomic_path(path) as temporary:
        blob = BytesIO()
        compiled.export_model(blob)
        temporary.write_bytes(blob.getbuffer())
