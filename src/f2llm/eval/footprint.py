"""What a model costs to use: parameters, weights on disk, memory while it encodes, tokens a second.

Measured in a Python process of its own, so nothing that this one holds or has held counts, on 128 fixed texts of 12 to
840 characters (four sentences in different languages, cut to lengths that are log-normal: median 100, sigma 0.8).
Memory is what is resident of that process: `memory_before_mb` after Python, torch and the library are loaded and
before the model is, `memory_mb` the most while it encodes; on a GPU both are what torch has allocated there. Speed is
the median of three passes over the texts, tokenising included, of tokens of the model's own tokenizer.

Cost: the start of the process (3 to 10 s) and about 8 s of encoding, for which a slow model reads a quarter or a
sixteenth of the texts; a model that takes longer still is read once. Limits: other work on the machine shows in the
speed; memory is None where the system does not tell it (it does on Linux).
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import NormalDist, median
from typing import Any, NamedTuple

import torch
from rich.markup import escape

from f2llm.core.errors import DataError, F2LLMError, ModelError
from f2llm.core.extras import optional
from f2llm.core.files import read_json, write_json
from f2llm.core.log import Bar, warn
from f2llm.core.machine import hardware, memory_mb, peak_memory_mb, reset_peak_memory
from f2llm.eval.mteb_model import MtebModel, device, is_qwen3, sentence_transformer, tokens_read
from f2llm.model import checkpoint
from f2llm.model.card import read_teacher
from f2llm.model.checkpoint import REFERENCE_TEXTS
from f2llm.model.embedder import Embedder
from f2llm.model.engines.load import dtype_of
from f2llm.model.weights import weights_digest

FILE = "footprint.json"
TEXTS, PASSES, SHARES = 128, 3, (128, 32, 8)
_SECONDS = 8.0  # of encoding
_PATIENCE = 180.0  # seconds until a measurement is given up
_STRIDE = 37  # prime to TEXTS: any eighth of the texts has short and long ones


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """One measurement. MB are of 2**20 bytes; `texts` of the workload were read, `passes` times."""

    parameters: int
    weights_mb: float
    memory_before_mb: float | None
    memory_mb: float | None
    tokens_per_second: float
    texts_per_second: float
    texts: int
    passes: int
    device: str
    threads: int
    hardware: str
    date: str


def workload() -> list[str]:
    """The texts, the same on every machine."""
    lengths = [round(100 * math.exp(0.8 * NormalDist().inv_cdf((n + 0.5) / TEXTS))) for n in range(TEXTS)]
    return [_text(n, lengths[n * _STRIDE % TEXTS]) for n in range(TEXTS)]


def _text(number: int, length: int) -> str:
    sentence = f"{REFERENCE_TEXTS[number % len(REFERENCE_TEXTS)]} "
    # The number in front keeps the embedder from computing a common beginning once.
    return f"{number} {sentence * (1 + length // len(sentence))}"[:length]


def stored_footprint(store: Path) -> dict[str, Any] | None:
    """What was measured before and lies in `store`, if it is whole."""
    try:
        found = read_json(store / FILE)
    except DataError:
        return None
    whole = isinstance(found, dict) and set(Footprint.__dataclass_fields__) <= set(found)
    return found if whole else None


def model_facts(model: MtebModel, *, measure: bool, weights: str = "float32") -> dict[str, Any]:
    """What results say of a model beside its scores; None for what is not known.

    `weights_sha256` and `teacher` link a student's results to those of its teacher, whatever their names are.
    `footprint` is what was measured before, or now with `measure`.
    """
    source, directory, store = model.source, model.directory, model.store.directory
    teacher = read_teacher(directory)
    return {
        "parameters": source.parameters, "width": source.width, "max_seq_length": source.max_seq_length,
        "weights_sha256": weights_digest(directory) if is_qwen3(directory) else None,
        "teacher": None if teacher is None else asdict(teacher),
        "footprint": footprint(directory, store, weights) if measure else stored_footprint(store),
    }  # fmt: skip


def footprint(directory: Path, store: Path, weights: str = "float32") -> dict[str, Any] | None:
    """The footprint of the model in `directory`, measured once and kept in `store` (a folder for each digest).

    Where it cannot be measured a warning says why, and it is None.
    """
    if (found := stored_footprint(store)) is not None:
        return found
    try:
        with Bar(f"memory and speed of {directory}", None):
            _measure_apart(directory, store / FILE, weights)
    except (F2LLMError, OSError, subprocess.SubprocessError) as error:
        warn(f"memory and speed of {directory} were not measured: {escape(_reason(error))}")
    return stored_footprint(store)


def _measure_apart(directory: Path, target: Path, weights: str) -> None:
    command = [sys.executable, "-m", __name__, str(directory.resolve()), str(target.resolve()), weights]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ModelError(lines[-1] if lines else f"the process ended with {done.returncode}")


def _reason(error: Exception) -> str:
    return f"it took over {_PATIENCE:.0f} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)


class _Loaded(NamedTuple):
    """A model as it is measured: what encodes texts, how many tokens it reads of them, its parameters."""

    encode: Callable[[list[str]], object]
    tokens: Callable[[list[str]], int]
    parameters: int


def measure(directory: Path, weights: str = "float32") -> Footprint:
    """The footprint of a model, in this process, which should have done nothing before."""
    load = partial(_decoder, weights=weights) if is_qwen3(directory) else _any_other
    if load is _any_other:
        optional("sentence_transformers", "eval")  # which takes memory of its own
    before, model = _resident(), load(directory)
    _start_peak()
    texts, seconds = _passes(model.encode, workload())
    return Footprint(
        parameters=model.parameters, weights_mb=round(_weights_bytes(directory) / 2**20, 1), memory_before_mb=before,
        memory_mb=_peak(), tokens_per_second=round(model.tokens(texts) / median(seconds), 1),
        texts_per_second=round(len(texts) / median(seconds), 1), texts=len(texts), passes=len(seconds),
        device=_device_name(), threads=torch.get_num_threads(), hardware=hardware(), date=date.today().isoformat(),
    )  # fmt: skip


def _decoder(directory: Path, weights: str) -> _Loaded:
    model = Embedder.load(directory, device=device(), dtype=dtype_of(weights))

    def tokens(texts: list[str]) -> int:
        return sum(map(len, model.tokenizer.encode_counted(texts)[0]))

    return _Loaded(model.encode, tokens, checkpoint.read_shape(directory).parameters)


def _any_other(directory: Path) -> _Loaded:
    model = sentence_transformer(directory)
    encode = partial(model.encode, batch_size=32, show_progress_bar=False)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return _Loaded(encode, lambda texts: tokens_read(model, texts)[0], parameters)


def _passes(encode: Callable[[list[str]], object], texts: list[str]) -> tuple[list[str], list[float]]:
    """The texts that could be read in the time, and the seconds of each pass over them."""
    smallest = texts[: SHARES[-1]]
    encode(smallest)  # the first call makes threads and buffers
    each = _timed(encode, smallest) / len(smallest)
    count = next((share for share in SHARES if PASSES * share * each <= _SECONDS), SHARES[-1])
    seconds: list[float] = []
    while not seconds or (len(seconds) < PASSES and sum(seconds) < _SECONDS):
        seconds.append(_timed(encode, texts[:count]))
    return texts[:count], seconds


def _timed(encode: Callable[[list[str]], object], texts: list[str]) -> float:
    started = time.perf_counter()
    encode(texts)
    return time.perf_counter() - started


def _weights_bytes(directory: Path) -> int:
    """Size of the weights: in safetensors where there are such files, else in what torch writes."""
    files = list(directory.rglob("*.safetensors")) or list(directory.rglob("*.bin"))
    return sum(path.stat().st_size for path in files)


def _resident() -> float | None:
    return 0.0 if device() == "cuda" else memory_mb()


def _start_peak() -> None:
    if device() == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        reset_peak_memory()


def _peak() -> float | None:
    return round(torch.cuda.max_memory_allocated() / 2**20, 1) if device() == "cuda" else peak_memory_mb()


def _device_name() -> str:
    return torch.cuda.get_device_name() if device() == "cuda" else "cpu"


def main(directory: str, target: str, weights: str = "float32") -> int:
    """Measure in this process and write the result; a mistake is one line on standard error."""
    try:
        write_json(target, asdict(measure(Path(directory), weights)))
    except F2LLMError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
