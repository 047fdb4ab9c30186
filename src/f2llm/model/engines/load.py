"""Which engine runs a model: by name, from a directory."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import torch

from f2llm.core.allocator import return_freed_memory
from f2llm.core.errors import ConfigError
from f2llm.model import checkpoint
from f2llm.model.engines.base import Engine
from f2llm.model.engines.pytorch import TorchEngine

ENGINES = ("auto", "torch", "openvino")
CPU_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)


def dtype_of(weights: str) -> torch.dtype:
    """The type of weights by its name; ConfigError for one that no engine has."""
    known = {str(dtype).removeprefix("torch."): dtype for dtype in CPU_TYPES}
    if weights not in known:
        raise ConfigError(f"weights are {weights!r}; give one of {', '.join(known)}")
    return known[weights]


def load_engine(
    directory: Path, name: str = "auto", *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Engine:
    """The engine of a model directory; ConfigError for what it cannot do.

    "auto" is torch: what is installed must not decide which vectors an index is searched with. `dtype` is that of the
    weights: any floating type for torch, on a CPU also int8; float32 or int8 for openvino, which needs a CPU.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine is {name!r}; give one of {', '.join(ENGINES)}")
    if name == "openvino":
        return _openvino(directory, device, dtype)
    if device != "cpu" and dtype.is_floating_point:
        return TorchEngine(checkpoint.load(directory, dtype=dtype, device=device))
    if device != "cpu" or dtype not in CPU_TYPES:
        raise ConfigError(f"dtype is {dtype}; the torch engine takes float32, bfloat16 or float16, and int8 on cpu")
    read = dtype if dtype == torch.bfloat16 else torch.float32
    engine = TorchEngine(checkpoint.load(directory, dtype=read), dtype)
    return_freed_memory()
    return engine


def _openvino(directory: Path, device: str, dtype: torch.dtype) -> Engine:
    precisions = {torch.float32: "float32", torch.int8: "int8"}
    if device != "cpu" or dtype not in precisions:
        raise ConfigError(f"device {device}, dtype {dtype}: the openvino engine runs float32 and int8 on cpu")
    module = import_module("f2llm.model.engines.openvino")  # only here: it is slow to import, and an extra
    engine: Engine = module.OpenVinoEngine.load(directory, precision=precisions[dtype])
    return engine
