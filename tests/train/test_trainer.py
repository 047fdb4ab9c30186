"""A run that is cut off and continued ends with the same bits as one that was not."""

import dataclasses
import json
import signal
from pathlib import Path

import pytest
import torch

from f2llm.core.errors import InterruptedRunError, TrainingError
from f2llm.data.store import TokenStore
from f2llm.model.decoder import Decoder
from f2llm.train.batch import PackedBatch
from f2llm.train.metrics import read_metrics
from f2llm.train.objective import LossSettings, make_objective
from f2llm.train.settings import TrainSettings, Upkeep
from f2llm.train.state import latest_checkpoint, verify
from f2llm.train.trainer import train

SETTINGS = TrainSettings(
    stage=2,
    steps=14,
    global_batch=16,
    learning_rate=1e-3,
    hard_negatives=3,
    clustering_hard_negatives=4,
    loss=LossSettings(dims=(8, 16), mask_duplicates=True),
    warmup_steps=3,
    min_learning_rate=1e-6,
    weight_decay=0.01,
    betas=(0.9, 0.98),
    clip_norm=1.0,
    micro_batch_tokens=10_000,
    seed=3,
)
UPKEEP = Upkeep(checkpoint_every=5, milestones=2)


def fresh(decoder: Decoder) -> Decoder:
    model = Decoder(decoder.shape)
    model.init_weights(0)
    return model


def losses(directory: Path) -> list[float]:
    return [entry["loss"] for entry in read_metrics(directory / "metrics.jsonl") if "kind" not in entry]


class Killed(BaseException):
    """Stands for the process ending without any chance to clean up."""


@pytest.mark.parametrize("kill_at", [2, 5, 7, 13])
def test_resumed_equals_uninterrupted(
    kill_at: int, tmp_path: Path, store: TokenStore, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fresh(decoder)
    train(whole, store, SETTINGS, tmp_path / "whole", upkeep=UPKEEP)

    from f2llm.train import trainer

    step = trainer._Run.step

    def dying(self: object, number: int) -> dict[str, float]:
        if number == kill_at:
            raise Killed
        return step(self, number)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer._Run, "step", dying)
    with pytest.raises(Killed):
        train(fresh(decoder), store, SETTINGS, tmp_path / "cut", upkeep=UPKEEP)
    monkeypatch.undo()
    resumed = fresh(decoder)
    train(resumed, store, SETTINGS, tmp_path / "cut", upkeep=UPKEEP)

    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_milestones_are_kept(tmp_path: Path, store: TokenStore, decoder: Decoder) -> None:
    train(decoder, store, SETTINGS, tmp_path, upkeep=UPKEEP)
    assert sorted(path.name for path in (tmp_path / "milestones").iterdir()) == [
        "step-00000005.safetensors",
        "step-00000009.safetensors",
    ]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, store: TokenStore, decoder: Decoder) -> None:
    train(decoder, store, SETTINGS, tmp_path, upkeep=UPKEEP)
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.name == "step-00000010"
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert "digest" in str(verify(newest))
    older = latest_checkpoint(tmp_path / "checkpoints")
    assert older is not None
    assert older.name == "step-00000005"


def test_another_configuration_is_refused(tmp_path: Path, store: TokenStore, decoder: Decoder) -> None:
    train(fresh(decoder), store, SETTINGS, tmp_path, upkeep=UPKEEP)
    with pytest.raises(TrainingError, match=r"learning_rate = 0\.001, now it is 0\.002"):
        train(fresh(decoder), store, dataclasses.replace(SETTINGS, learning_rate=2e-3), tmp_path, upkeep=UPKEEP)


def test_weights_or_teachers_of_other_origin_are_refused(tmp_path: Path, store: TokenStore, decoder: Decoder) -> None:
    train(fresh(decoder), store, SETTINGS, tmp_path, upkeep=UPKEEP, inputs={"prune/m": "one"})
    with pytest.raises(TrainingError, match=r"inputs\.prune/m = 'one', now it is 'two'"):
        train(fresh(decoder), store, SETTINGS, tmp_path, upkeep=UPKEEP, inputs={"prune/m": "two"})
    assert latest_checkpoint(tmp_path / "checkpoints") is not None


def test_a_non_finite_loss_stops_before_the_update(tmp_path: Path, store: TokenStore, decoder: Decoder) -> None:
    with torch.no_grad():
        decoder.norm.weight[0] = float("nan")
    before = [p.detach().clone() for p in decoder.parameters()]
    with pytest.raises(TrainingError, match="nothing was updated"):
        train(decoder, store, SETTINGS, tmp_path, upkeep=UPKEEP)
    assert all(torch.equal(a, b) for a, b in zip(before[:3], list(decoder.parameters())[:3], strict=True))
    assert json.loads((tmp_path / "non-finite-batch.json").read_text())["step"] == 0


def test_sigterm_saves_and_says_so(
    tmp_path: Path, store: TokenStore, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from f2llm.train import trainer

    step = trainer._Run.step

    def signalled(self: object, number: int) -> dict[str, float]:
        if number == 6:
            signal.raise_signal(signal.SIGTERM)
        return step(self, number)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer._Run, "step", signalled)
    with pytest.raises(InterruptedRunError) as stopped:
        train(fresh(decoder), store, SETTINGS, tmp_path, upkeep=UPKEEP)
    assert stopped.value.exit_code == 75
    newest = latest_checkpoint(tmp_path / "checkpoints")
    assert newest is not None
    assert newest.name == "step-00000007"


def test_training_lowers_the_loss(tmp_path: Path, store: TokenStore, decoder: Decoder) -> None:
    train(decoder, store, dataclasses.replace(SETTINGS, steps=60, learning_rate=5e-3), tmp_path)
    found = losses(tmp_path)
    assert sum(found[-12:]) < sum(found[:12])


def test_two_threads_give_the_same_gradient_each_time() -> None:
    """Texts that stand in many rows gather their gradient from all of them, in the same order at each run."""
    generator = torch.Generator().manual_seed(0)
    texts, rows = 40, 2000
    roles = torch.randint(0, texts, (rows, 4), generator=generator)
    batch = PackedBatch(
        "pairs", roles[:, 0], [0], roles[:texts, 0].numpy(), roles[:, 0], roles[:, 1], roles[:, 2:], roles[:0, 0], 0
    )
    loss = make_objective(SETTINGS.loss, batch, "retrieval", None)
    E_ND = torch.randn(texts, 16, generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        gradients = []
        for _ in range(8):
            E = E_ND.clone().requires_grad_()
            loss(E)[0].backward()
            gradients.append(E.grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
