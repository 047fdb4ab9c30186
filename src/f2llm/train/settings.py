"""All that determines a training run besides its data and initial weights, and how it is kept and watched."""

from __future__ import annotations

from dataclasses import dataclass, field

from f2llm.core.types import TaskType
from f2llm.data.store import TokenStore
from f2llm.train.distributed import Precision, Strategy
from f2llm.train.objective import LossSettings
from f2llm.train.sampler import BatchSampler, Mixture, held_out_counts, negatives_of


@dataclass(frozen=True)
class TrainSettings:
    """What decides the weights: a resumed run must have all of it in common with the one that was cut off.

    `micro_batch_tokens` None: as many as memory holds. `validation_fraction` of each source's rows, at most
    `validation_rows`, are held out of training. `compile`: element-wise parts by torch.compile.
    """

    stage: int
    steps: int
    global_batch: int
    learning_rate: float
    hard_negatives: int
    clustering_hard_negatives: int
    loss: LossSettings
    warmup_steps: int
    min_learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    clip_norm: float
    seed: int
    mixture: Mixture = field(default_factory=Mixture)
    validation_fraction: float = 0.0
    validation_rows: int = 128
    micro_batch_tokens: int | None = 16_384
    precision: Precision = "fp32"
    checkpoint_activations: bool = False
    compile: bool = False
    strategy: Strategy = "fsdp"

    def negatives(self, task_type: TaskType) -> int:
        return negatives_of(task_type, self.hard_negatives, self.clustering_hard_negatives)


@dataclass(frozen=True)
class Upkeep:
    """How a run is saved and watched; none of it changes the weights.

    The newest `keep_last` checkpoints stay, and those of every `keep_every`-th step. `milestones` weights are kept for
    study, evenly spaced. Validation runs every `validate_every` steps (0: never) for at most `validation_seconds`, and
    so does the scorer that the run was given, by `evaluate_every` and `evaluation_seconds`.
    """

    checkpoint_every: int = 500
    keep_last: int = 2
    keep_every: int | None = None
    milestones: int = 0
    validate_every: int = 0
    validation_seconds: float = 60.0
    evaluate_every: int = 0
    evaluation_seconds: float = 20.0
    log_every: int = 10
    trackers: tuple[str, ...] = ()


def make_sampler(store: TokenStore, settings: TrainSettings) -> BatchSampler:
    """The order of the store's rows under these settings."""
    sizes = row_counts(store)
    return BatchSampler(
        sizes,
        settings.global_batch,
        settings.seed,
        mixture=settings.mixture,
        languages={source: store.language_shares(source) for source in sizes},
        held_out=held_out_counts(sizes, settings.validation_fraction, settings.validation_rows),
    )


def row_counts(store: TokenStore) -> dict[str, int]:
    return {source: len(rows) for source, rows in store.rows.items()}
