"""Checkpoints of a training run: one directory each, whole or absent, verified before use; never pickle.

`step-00000400/` holds model.safetensors, optimizer.safetensors, state.json (step, run digest) and, written last,
manifest.json with the SHA-256 of each file. The directory is written aside, flushed, and renamed. The sampler and the
learning rate are functions of the step, so the step is all of their state.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW

from f2llm.core.errors import F2LLMError, StorageError, TrainingError
from f2llm.core.files import digest_file, explained, read_json, replace_directory, write_json
from f2llm.core.log import warn


def save_checkpoint(root: Path, step: int, model: nn.Module, optimizer: AdamW, run_digest: str) -> Path:
    """Write the state after `step` finished steps; returns the checkpoint's directory."""
    target = root / f"step-{step:08d}"
    aside = root / f".step-{step:08d}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    with explained(target):
        aside.mkdir(parents=True)
        _check_space(aside, model)
        save_file(_contiguous(model.state_dict()), aside / "model.safetensors")
        save_file(_optimizer_tensors(optimizer), aside / "optimizer.safetensors")
        write_json(aside / "state.json", {"step": step, "run": run_digest})
        files = {path.name: digest_file(path) for path in sorted(aside.iterdir())}
        write_json(aside / "manifest.json", {"files": files})
        replace_directory(aside, target)
    return target


def latest_checkpoint(root: Path) -> Path | None:
    """The newest checkpoint whose files match its manifest; damaged ones are passed over with a warning."""
    for path in sorted(root.glob("step-*"), reverse=True):
        problem = verify(path)
        if problem is None:
            return path
        warn(f"checkpoint {path} is damaged ({problem}) and was skipped")
    return None


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        files = read_json(path / "manifest.json")["files"]
        bad = [name for name, digest in files.items() if digest_file(path / name) != digest]
    except (F2LLMError, OSError, KeyError, TypeError, AttributeError) as error:
        return str(error)
    return f"{bad[0]} does not match its digest" if bad else None


def load_checkpoint(path: Path, model: nn.Module, optimizer: AdamW, run_digest: str) -> int:
    """Restore model and optimizer; returns the number of finished steps. Another run's checkpoint is an error."""
    state = read_json(path / "state.json")
    if state["run"] != run_digest:
        raise TrainingError(
            f"{path} belongs to a run with another configuration or other data; "
            "delete that directory to start anew, or restore the old configuration to continue"
        )
    model.load_state_dict(load_file(path / "model.safetensors"))
    _restore_optimizer(optimizer, load_file(path / "optimizer.safetensors"))
    return int(state["step"])


def drop_older(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for path in sorted(root.glob("step-*"))[:-keep]:
        shutil.rmtree(path)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _optimizer_tensors(optimizer: AdamW) -> dict[str, Tensor]:
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return _contiguous({f"{index}.{key}": value for index, slots in state.items() for key, value in slots.items()})


def _restore_optimizer(optimizer: AdamW, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    whole: dict[str, Any] = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def _check_space(directory: Path, model: nn.Module) -> None:
    """Weights and two moments must fit before the first byte is written."""
    needed = 3 * sum(p.numel() * p.element_size() for p in model.parameters())
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise StorageError(
            f"a checkpoint needs {needed / 1e6:.0f} MB in {directory.parent}, {free / 1e6:.0f} MB are free; "
            f"free some space"
        )
