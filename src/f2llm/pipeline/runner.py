"""Steps, artifacts, skip and resume.

A step writes into `OUT/.partial/NAME`; when it is done, manifest.json is added and the directory is renamed to
`OUT/NAME`. A step is up to date when its manifest carries the same fingerprint: a digest of its part of the recipe, of
the outputs of the steps before it, and of its input files. A changed recipe therefore reruns exactly the steps that
depend on the change, and a step whose output came out the same stops the change from spreading further. A killed step
finds its partial directory again, if its fingerprint is still the same. What a step spreads over processes or machines
are the tasks of an engine (`f2llm.data.engine`), which leave markers there; the `tasks` of steps that follow each other
are run all at once, before the steps themselves. Checkpoints of a training that was cut off are
never thrown away: where the fingerprint has changed, the training itself refuses them and says what differs.
A step that another build has finished with the same fingerprint is taken from there, where the caller names that build.
"""

from __future__ import annotations

import gc
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from f2llm.core.errors import ConfigError, F2LLMError
from f2llm.core.files import (
    digest_json,
    digest_tree,
    explained,
    link_directory,
    read_json,
    replace_directory,
    write_json,
)
from f2llm.core.log import log
from f2llm.core.machine import peak_memory_mb, reset_peak_memory
from f2llm.data.engine import Engine, LocalEngine, Task
from f2llm.train.distributed import World

MANIFEST = "manifest.json"
_VERSIONED = ("f2llm", "torch", "numpy", "tokenizers", "babel")
# Files that carry times or speeds: they differ from run to run and must not make later steps stale.
VOLATILE = frozenset({MANIFEST, "metrics.jsonl", "timing.json", "training.png"})


@dataclass(frozen=True)
class Workplace:
    """What a running step sees: where to write, where the artifacts of earlier steps lie, and what it depends on.

    `inputs` are digests of the steps and files that the step reads.
    """

    out: Path
    directory: Path
    seed: int
    world: World = field(default_factory=World)
    inputs: Mapping[str, str] = field(default_factory=dict)
    engine: Engine = field(default_factory=LocalEngine)

    def artifact(self, step: str) -> Path:
        return self.out / step

    def weights(self, made: str | Path) -> Path:
        """The directory of the weights that a step made, or one of the user's."""
        return self.artifact(made) / "model" if isinstance(made, str) else made


@dataclass(frozen=True)
class Step:
    """One unit of work. `config` holds all that its result depends on besides `inputs` (steps) and `files`.

    A `parallel` step is run by all processes together; any other by the main one while the rest wait. `tasks` are
    independent parts of it, run by the engine before `run`, which finds their results done.
    """

    name: str
    run: Callable[[Workplace], None]
    config: dict[str, Any]
    inputs: Sequence[str] = ()
    files: Sequence[Path] = ()
    parallel: bool = False
    tasks: Callable[[Workplace], Sequence[Task]] | None = None


@dataclass
class BuildResult:
    """Names of the steps that were computed, and of those that were not; `shared` are those taken from other builds."""

    out: Path
    ran: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run_steps(
    steps: Sequence[Step],
    out: Path,
    *,
    seed: int,
    until: str | None = None,
    world: World | None = None,
    engine: Engine | None = None,
    others: Sequence[Path] = (),
) -> BuildResult:
    """Bring every step up to date, in order; `until` names the last step (or the last of a group) to run.

    `others` are directories of builds whose finished steps are taken over, where they are the very same work. With
    several processes all call it; the main one decides what is up to date.
    """
    started = time.monotonic()
    selected = _until(steps, until)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    run = _Run(out, seed, world or World(), engine or LocalEngine(), BuildResult(out), others)
    gc.freeze()  # the collection after each step need not look through what is loaded: a quarter of a second each
    try:
        for number, step in enumerate(selected):
            run.bring_up(step, f"{number + 1}/{len(selected)}", selected[number:])
    finally:
        gc.unfreeze()
        run.engine.close()
    run.result.seconds = time.monotonic() - started
    return run.result


@dataclass
class _Run:
    """One run over the steps of a recipe: the outputs of those that are up to date."""

    out: Path
    seed: int
    world: World
    engine: Engine
    result: BuildResult
    others: Sequence[Path] = ()
    outputs: dict[str, str] = field(default_factory=dict)
    prepared: set[str] = field(default_factory=set)

    def bring_up(self, step: Step, place: str, following: Sequence[Step]) -> None:
        """Run a step unless it is up to date; `following` begins with it."""
        fingerprint = _fingerprint(step, self.outputs, self.seed)
        manifest = self.world.gather(self.world.main_first(lambda: self._there(step, fingerprint)))[0]
        if manifest is None:
            started = time.monotonic()
            log(f"[bold]\\[{place}][/bold] {step.name}")
            self.world.main_first(lambda: self._prepare(following))
            manifest = self._run(step, fingerprint, started)
            self.engine.rest()  # workers keep what a step made them load
            self.result.ran.append(step.name)
        else:
            self.result.skipped.append(step.name)
        self.outputs[step.name] = manifest["output"]

    def _there(self, step: Step, fingerprint: str) -> dict[str, Any] | None:
        """The manifest of a step that is finished here, or was elsewhere and is now here too."""
        for root in (self.out, *self.others):
            manifest = _manifest(root / step.name)
            if manifest is not None and manifest.get("fingerprint") == fingerprint:
                if root != self.out:
                    link_directory(root / step.name, self.out / step.name)
                    self.result.shared.append(step.name)
                return manifest
        return None

    def _prepare(self, following: Sequence[Step]) -> None:
        """Run the tasks of the first of these steps and of those behind it that need no other one, all at once."""
        tasks: list[Task] = []
        for step in following:
            if step.tasks is None or step.name in self.prepared or not set(step.inputs) <= self.outputs.keys():
                break
            fingerprint = _fingerprint(step, self.outputs, self.seed)
            if self._there(step, fingerprint) is None:
                partial = _partial_directory(self._partial(step), fingerprint, keep=False)
                tasks += step.tasks(self._place(step, partial))
            self.prepared.add(step.name)
        if tasks:
            self.engine.map(tasks, following[0].name.partition("/")[0])

    def _run(self, step: Step, fingerprint: str, started: float) -> dict[str, Any]:
        partial = self._partial(step)
        self.world.main_first(lambda: _partial_directory(partial, fingerprint, keep=step.parallel))
        reset_peak_memory()
        place = self._place(step, partial)
        if step.parallel:
            step.run(place)
        else:
            self.world.main_first(lambda: step.run(place))
        gc.collect()
        finished = self.world.main_first(lambda: _finish(step, place, fingerprint, self.outputs, started))
        manifest: dict[str, Any] = self.world.gather(finished)[0]  # type: ignore[assignment]
        return manifest

    def _partial(self, step: Step) -> Path:
        return self.out / ".partial" / step.name

    def _place(self, step: Step, partial: Path) -> Workplace:
        return Workplace(self.out, partial, self.seed, self.world, _inputs(step, self.outputs), self.engine)


def manifests(out: Path, steps: Sequence[str]) -> list[dict[str, Any]]:
    """The manifests of those of `steps` that are finished, in order."""
    found = [_manifest(out / name) for name in steps]
    return [manifest for manifest in found if manifest is not None]


def needed(steps: Sequence[Step], targets: Callable[[Step], bool]) -> list[Step]:
    """The steps that are `targets`, and all that they depend on, in order."""
    by_name, wanted = {step.name: step for step in steps}, set()
    waiting = [step.name for step in steps if targets(step)]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += by_name[name].inputs
    return [step for step in steps if step.name in wanted]


def _finish(step: Step, place: Workplace, fingerprint: str, outputs: dict[str, str], started: float) -> dict[str, Any]:
    """Write the manifest and put the artifact in its place."""
    partial = place.directory
    manifest = {
        "step": step.name,
        "fingerprint": fingerprint,
        "config_digest": digest_json(step.config),
        "input_digests": {name: outputs[name] for name in step.inputs},
        "file_digests": {path.name: _stat_digest(path) for path in step.files},
        "output": digest_tree(partial, skip=lambda path: path.name in VOLATILE or path.name == "fingerprint"),
        "seed": place.seed,
        "processes": place.world.size if step.parallel else 1,
        "versions": {name: _version(name) for name in _VERSIONED} | {"python": platform.python_version()},
        "wall_time_s": round(time.monotonic() - started, 3),
        "peak_memory_mb": peak_memory_mb(),
    }
    write_json(partial / MANIFEST, manifest)
    replace_directory(partial, place.out / step.name)
    _drop_empty(partial.parent, place.out)
    (place.out / step.name / "fingerprint").unlink(
        missing_ok=True
    )  # not before: without it the partial directory is thrown away
    return manifest


def _partial_directory(path: Path, fingerprint: str, keep: bool) -> Path:
    """An earlier attempt's directory when it was the same work or, with `keep`, has checkpoints; else an empty one."""
    mark = path / "fingerprint"
    kept = keep and any(path.glob("checkpoints/step-*"))
    if not kept and not (mark.exists() and mark.read_text() == fingerprint):
        shutil.rmtree(path, ignore_errors=True)
        with explained(path):
            path.mkdir(parents=True)
            mark.write_text(fingerprint)
    return path


def _drop_empty(directory: Path, root: Path) -> None:
    """Remove `directory` and its parents below `root` as far as nothing is in them; others' unfinished work stays."""
    while directory != root and not any(directory.iterdir()):
        directory.rmdir()
        directory = directory.parent


def _fingerprint(step: Step, outputs: dict[str, str], seed: int) -> str:
    return digest_json([step.name, step.config, _inputs(step, outputs), seed, _version("f2llm")])


def _inputs(step: Step, outputs: dict[str, str]) -> dict[str, str]:
    """Digests of all that a step reads, by the step's name or the file's path."""
    return {name: outputs[name] for name in step.inputs} | {str(path): _stat_digest(path) for path in step.files}


def _stat_digest(path: Path) -> str:
    """Digest of names, sizes and times below `path`: contents of hundreds of gigabytes are not read again."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [(p.relative_to(path).as_posix(), p.stat()) for p in files]
    return digest_json([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])


def _until(steps: Sequence[Step], until: str | None) -> list[Step]:
    if until is None:
        return list(steps)
    last = [i for i, step in enumerate(steps) if step.name == until or step.name.startswith(f"{until}/")]
    if not last:
        names = ", ".join(step.name for step in steps)
        raise ConfigError(f"--until {until}: there is no such step; steps: {names}")
    return list(steps[: last[-1] + 1])


def _manifest(directory: Path) -> dict[str, Any] | None:
    path = directory / MANIFEST
    if not path.exists():
        return None
    try:
        value: dict[str, Any] = read_json(path)
        return value if "output" in value else None
    except F2LLMError:
        return None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"
