"""Checkpoints of a training run: one directory each, whole or absent, verified before use; never pickle.

`step-00000400/` holds the weights and the optimizer's moments in safetensors (one pair of files, or one pair a process
where the model is sharded), the random state, state.json (step, learning rate, sampler position, what the run is) and,
written last, manifest.json with the SHA-256 of each file. The directory is written aside, flushed, and renamed.
Batches and learning rates are functions of the step, so resuming costs the same at any step.
Several processes share one file system.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import AdamW

from f2llm.core.errors import F2LLMError, StorageError, TrainingError
from f2llm.core.files import digest_file, explained, read_json, replace_directory, write_json
from f2llm.core.log import warn
from f2llm.train.distributed import Replica, local, spread_like

_MANIFEST, _STATE = "manifest.json", "state.json"


def save_checkpoint(
    root: Path, step: int, replica: Replica, optimizer: AdamW, run: Mapping[str, Any], position: Mapping[str, Any]
) -> Path:
    """Write the state after `step` finished steps; returns the checkpoint's directory. All processes call it.

    `run` is what a resumed run must have in common; `position` is what a reader wants to know (rate, sampler).
    """
    target = root / f"step-{step:08d}"
    aside = root / f".step-{step:08d}.partial"
    world = replica.world
    try:
        world.main_first(lambda: _prepare(aside, target, replica))
        digests = world.together(lambda: _write_tensors(aside, replica, optimizer))
        files = {name: digest for part in world.gather(digests) for name, digest in part.items()}
        world.main_first(lambda: _finish(aside, target, files, {"step": step, "run": dict(run), **position}))
    except F2LLMError:
        if world.is_main:
            shutil.rmtree(aside, ignore_errors=True)  # half a checkpoint would keep the disk full
        raise
    return target


def latest_checkpoint(root: Path) -> Path | None:
    """The newest checkpoint whose files match its manifest; damaged ones are passed over with a warning."""
    for _, path in reversed(_by_step(root)):
        problem = verify(path)
        if problem is None:
            return path
        warn(escape(f"checkpoint {path} is damaged ({problem}) and was skipped"))
    return None


def verify(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        manifest = read_json(path / _MANIFEST)
        files = manifest.get("files") if isinstance(manifest, dict) else None
        if not isinstance(files, dict) or _STATE not in files:
            return f"{_MANIFEST} does not name its files"
        bad = [name for name, digest in files.items() if digest_file(path / name) != digest]
    except (F2LLMError, OSError) as error:
        return str(error)
    return f"{bad[0]} does not match its digest" if bad else None


def saved_run(path: Path) -> dict[str, Any]:
    """What the run of a checkpoint was: its settings, data and processes."""
    found: dict[str, Any] = read_json(path / _STATE)["run"]
    return found


def load_checkpoint(path: Path, replica: Replica, optimizer: AdamW, run: Mapping[str, Any]) -> int:
    """Restore model, optimizer and random state; returns the number of finished steps.

    A checkpoint of a run that differs in anything is a TrainingError that names the field and both values.
    """
    if difference := _difference(saved_run(path), dict(run)):
        field, old, new = difference
        raise TrainingError(
            f"{path} belongs to a run with {field} = {old!r}, now it is {new!r}; restore the old value to continue, "
            f"or delete {path.parent} to start anew"
        )
    suffix = _suffix(replica)
    weights, moments = load_file(path / f"model{suffix}"), load_file(path / f"optimizer{suffix}")
    with torch.no_grad():
        for name, parameter in replica.decoder.named_parameters():
            local(parameter).copy_(weights[name])
            slots = {key: moments[f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {
                "step": slots["step"].to(parameter.device),
                **{key: spread_like(slots[key].to(parameter.device), parameter) for key in ("exp_avg", "exp_avg_sq")},
            }
    torch.set_rng_state(load_file(path / "random.safetensors")["cpu"])
    return int(read_json(path / _STATE)["step"])


def drop_older(root: Path, newest: int, keep_last: int, keep_every: int | None = None) -> None:
    """Delete all but the last `keep_last` checkpoints up to step `newest` and those of every `keep_every`-th step.

    One of a later step is damaged, or the run would have gone on from it: it does not count, and is not touched.
    """
    for step, path in [found for found in _by_step(root) if found[0] <= newest][:-keep_last]:
        if keep_every is None or step % keep_every:
            shutil.rmtree(path)


def _by_step(root: Path) -> list[tuple[int, Path]]:
    """All checkpoints, whole and damaged; what else lies beside them is not ours."""
    numbers = ((path.name.removeprefix("step-"), path) for path in root.glob("step-*"))
    return sorted((int(number), path) for number, path in numbers if number.isdecimal())


def _difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> tuple[str, Any, Any] | None:
    """The first field, by name, in which two nested descriptions differ."""
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            if inner := _difference(a, b, f"{prefix}{key}."):
                return inner
        elif _plain(a) != _plain(b):
            return f"{prefix}{key}", _plain(a), _plain(b)
    return None


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _prepare(aside: Path, target: Path, replica: Replica) -> None:
    shutil.rmtree(aside, ignore_errors=True)
    with explained(target):
        aside.mkdir(parents=True)
        _check_space(aside, replica)


def _write_tensors(aside: Path, replica: Replica, optimizer: AdamW) -> dict[str, str]:
    """This process's files and their digests; without shards only the main process has any."""
    if not (replica.sharded or replica.world.is_main):
        return {}
    suffix, named = _suffix(replica), list(replica.decoder.named_parameters())
    files = {
        f"model{suffix}": {name: local(p) for name, p in named},
        f"optimizer{suffix}": {
            f"{name}.{key}": local(value) for name, p in named for key, value in optimizer.state[p].items()
        },
    }
    if replica.world.is_main:
        files["random.safetensors"] = {"cpu": torch.get_rng_state()}
    with explained(aside):
        for name, tensors in files.items():
            _save(tensors, aside / name)
        return {name: digest_file(aside / name) for name in files}


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """`save_file`, whose own error class also stands for a full disk."""
    from safetensors import SafetensorError

    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise StorageError(f"cannot write {path}: {error}; free some space and run the command again") from None


def _finish(aside: Path, target: Path, files: dict[str, str], state: dict[str, Any]) -> None:
    with explained(target):
        write_json(aside / _STATE, state)
        files = {**files, _STATE: digest_file(aside / _STATE)}
        write_json(aside / _MANIFEST, {"files": dict(sorted(files.items()))})
        replace_directory(aside, target)


def _suffix(replica: Replica) -> str:
    world = replica.world
    return f"-{world.rank:05d}-of-{world.size:05d}.safetensors" if replica.sharded else ".safetensors"


def _check_space(directory: Path, replica: Replica) -> None:
    """Weights and two moments must fit before the first byte is written."""
    needed = 3 * sum(p.numel() * p.element_size() for p in replica.decoder.parameters())
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise StorageError(
            f"a checkpoint needs {needed / 1e6:,.1f} MB in {directory.parent}, {free / 1e6:,.1f} MB are free; "
            f"free some space and run the command again"
        )
