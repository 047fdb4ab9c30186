"""The tensors of a model, all at once or a few at a time: from memory, or from safetensors files, whole or in shards.

Names are those of `Decoder`, which are Hugging Face's without `model.`; a language-model head is passed over. Every
tensor is checked against the shape that config.json describes. No pickle is ever opened.

Cost: `StoredWeights` opens a file for a moment and holds what it was asked for, so a caller that goes layer by layer
needs the memory of a layer, not of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from f2llm.core.errors import DataError, ModelError
from f2llm.core.files import digest_file, digest_json, read_json
from f2llm.model.decoder import Decoder
from f2llm.model.sizes import Shape

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Weights(Protocol):
    """A model of `shape` whose tensors can be asked for by name, as often as wanted."""

    shape: Shape

    def stream(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of each of `names`, in the order that costs least."""
        ...


class LoadedWeights:
    """The weights of a decoder in memory."""

    def __init__(self, decoder: Decoder) -> None:
        self.shape, self._tensors = decoder.shape, decoder.state_dict()

    def stream(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            yield name, self._tensors[name]


class StoredWeights:
    """The weights in a model directory, or in one file of weights; ModelError names the file and tensor that is wrong.

    `dtype` is the type in which most of them are stored.
    """

    def __init__(self, place: Path, shape: Shape) -> None:
        self.shape, self.files = shape, [place] if place.is_file() else weight_files(place)
        self._places: dict[str, Path] = {}
        expected = shapes_of(shape)
        kinds: list[torch.dtype] = []
        for file in self.files:
            for entry in entries(file):
                check_entry(file, entry, expected)
                self._places[entry.name] = file
                kinds.append(_FLOATS[entry.kind])
        check_complete(self._places, expected, place)
        self.dtype = max(set(kinds), key=kinds.count)

    def stream(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        wanted = set(names)
        for file in self.files:
            here = {name for name in wanted if self._places[name] == file}
            for entry in entries(file) if here else ():
                if entry.name in here:
                    yield entry.name, entry.read()


class Entry(NamedTuple):
    """One tensor in a file: `kind` as safetensors calls it; `read` gives it, mapped from the file where that works."""

    name: str
    shape: tuple[int, ...]
    kind: str
    read: Callable[[], Tensor]


def layer_names(shape: Shape, layer: int) -> list[str]:
    """Names of the tensors of one layer."""
    prefix = f"layers.{layer}."
    return [name for name in shapes_of(shape) if name.startswith(prefix)]


def shapes_of(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a decoder of this shape."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Decoder(shape).state_dict().items()}


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a directory: the single one, or all shards that the index names."""
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if not (directory / INDEX).is_file():
        raise ModelError(f"{directory} holds neither {WEIGHTS} nor {INDEX}; copy the model again (safetensors)")
    try:
        names = sorted(set(read_json(directory / INDEX)["weight_map"].values()))
    except (DataError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{directory / INDEX} has no weight_map; copy the model again") from None
    for name in names:
        if Path(name).name != name or not (directory / name).is_file():
            raise ModelError(f"{INDEX} names the shard {name!r}, which is not in {directory}; copy the model again")
    return [directory / name for name in names]


def weights_digest(directory: Path) -> str:
    """SHA-256 of a directory's weights: of the single file, as hubs show it, or over those of the shards."""
    digests = [digest_file(path) for path in weight_files(directory)]
    return digests[0] if len(digests) == 1 else digest_json(digests)


def read_tensors(files: Sequence[Path], decoder: Decoder, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """All parameters of `decoder` from `files`; ModelError for one that is missing, unknown or of another shape."""
    expected = {name: tuple(p.shape) for name, p in decoder.state_dict().items()}
    tensors: dict[str, Tensor] = {}
    for file in files:
        for entry in entries(file):
            check_entry(file, entry, expected)
            tensors[entry.name] = entry.read().to(device, dtype, copy=True)
    check_complete(tensors, expected, files[0].parent)
    return tensors


def entries(file: Path) -> Iterator[Entry]:
    """Each tensor of a file but the language-model head, `model.` taken off the name."""
    try:
        with safe_open(file, framework="pt") as handle:
            for key in handle.keys():  # noqa: SIM118 - the handle is no mapping
                view = handle.get_slice(key)
                if key != "lm_head.weight":
                    shape, kind = tuple(view.get_shape()), str(view.get_dtype())
                    yield Entry(key.removeprefix("model."), shape, kind, partial(handle.get_tensor, key))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read as safetensors ({error}); copy the model again") from None


def check_entry(file: Path, entry: Entry, expected: Mapping[str, tuple[int, ...]]) -> None:
    """ModelError where a tensor is unknown, of another shape, or not of floating point."""
    name, found = entry.name, entry.shape
    if name not in expected:
        raise ModelError(f"{file}: tensor {name} {found} belongs to no Qwen3 decoder of this config.json")
    if found != expected[name]:
        raise ModelError(f"{file}: tensor {name} has shape {found}, config.json demands {expected[name]}")
    if entry.kind not in _FLOATS:
        raise ModelError(f"{file}: tensor {name} is stored as {entry.kind}; use the unquantised model (F32, BF16, F16)")


def check_complete(found: Iterable[str], expected: Mapping[str, tuple[int, ...]], directory: Path) -> None:
    """ModelError where a tensor is absent."""
    missing = sorted(expected.keys() - set(found))
    if missing:
        raise ModelError(
            f"{directory}: {len(missing)} of {len(expected)} tensors are missing, the first is {missing[0]} "
            f"{expected[missing[0]]}; copy the model again, or correct config.json"
        )
