"""Validation looks at held-out rows only, always in the same way, and takes turns where time is short."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from f2llm.data.store import TokenStore
from f2llm.model.decoder import Decoder
from f2llm.model.pack import embed
from f2llm.train import trainer, validation
from f2llm.train.batch import pack_rows, pack_texts
from f2llm.train.curves import _read
from f2llm.train.distributed import Replica, World
from f2llm.train.metrics import read_metrics
from f2llm.train.objective import make_objective
from f2llm.train.sampler import Draw, draw_rows
from f2llm.train.settings import Upkeep, make_sampler
from f2llm.train.validation import Validation
from tests.train.test_trainer import SETTINGS as TRAINER
from tests.train.test_trainer import Killed, fresh

SETTINGS = replace(TRAINER, validation_fraction=0.1, validation_rows=6)
HELD_OUT = {"pairs": 6, "groups": 4, "yes": 2}
LONG = 1e9  # seconds


def make_validation(store: TokenStore) -> Validation:
    return Validation(store, SETTINGS, make_sampler(store, SETTINGS))


def alone(decoder: Decoder) -> Replica:
    return Replica(decoder, World(), "fsdp", "fp32")


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[Draw]:
    """The draws that validation makes."""
    seen: list[Draw] = []

    def recording(store: TokenStore, draw: Draw, *rest: int) -> Any:
        seen.append(draw)
        return draw_rows(store, draw, *rest)

    monkeypatch.setattr(validation, "draw_rows", recording)
    return seen


def test_the_rows_of_validation_are_those_that_training_never_draws(
    store: TokenStore, decoder: Decoder, looked_at: list[Draw]
) -> None:
    sampler = make_sampler(store, SETTINGS)
    Validation(store, SETTINGS, sampler).run(alone(decoder), 10_000, LONG)
    held_out = {draw.source: set(draw.rows.tolist()) for draw in looked_at}
    assert {source: len(rows) for source, rows in held_out.items()} == HELD_OUT
    trained: dict[str, set[int]] = {source: set() for source in held_out}
    for step in range(3 * sampler.steps_per_epoch):
        draw = sampler.draw(step)
        trained[draw.source].update(draw.rows.tolist())
    for source, rows in held_out.items():
        assert trained[source] == set(range(len(store.rows[source]))) - rows


@pytest.mark.parametrize("budget", [10_000, 60])
def test_the_loss_is_that_of_the_step_without_the_teacher(
    budget: int, store: TokenStore, decoder: Decoder, looked_at: list[Draw]
) -> None:
    found = make_validation(store).run(alone(decoder), budget, LONG)
    for draw in looked_at:
        kind = store.task_types[draw.source]
        batch = pack_rows(store, draw.source, draw_rows(store, draw, SETTINGS.negatives(kind), SETTINGS.seed))
        with torch.no_grad():
            E_ND = embed(decoder, pack_texts(store, batch.text_ids))
            expected, _ = make_objective(SETTINGS.loss, batch, kind, None)(E_ND)
        assert found["by_source"][draw.source] == pytest.approx(expected.item(), rel=1e-5)
    assert found["loss"] == pytest.approx(np.mean(list(found["by_source"].values())))
    assert all(parameter.grad is None for parameter in decoder.parameters())


def test_the_same_weights_give_the_same_losses_each_time(store: TokenStore, decoder: Decoder) -> None:
    first, again = make_validation(store), make_validation(store)
    found = [each.run(alone(decoder), 10_000, LONG)["by_source"] for each in (first, first, again)]
    assert found[0] == found[1] == found[2]


class Clock:
    """Ten seconds pass between two looks at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 10
        return self.now


def test_sources_that_time_left_out_come_first_the_next_time(
    store: TokenStore, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation, "time", Clock())
    turns = make_validation(store)
    found = [turns.run(alone(decoder), 10_000, seconds) for seconds in (15, 15, 15, 0, LONG)]
    assert [list(each["by_source"]) for each in found] == [
        ["pairs", "groups"], ["yes", "pairs"], ["groups", "yes"], ["pairs"], ["groups", "yes", "pairs"],
    ]  # fmt: skip
    assert [each["sources_left_out"] for each in found] == [1, 1, 1, 2, 0]
    assert [each["seconds"] for each in found] == [30, 30, 30, 20, 40]


def entries(directory: Path) -> list[dict[str, Any]]:
    """Validation entries, without the time that they took."""
    found = [entry for entry in read_metrics(directory / "metrics.jsonl") if entry.get("kind") == "validation"]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in found]


UPKEEP = Upkeep(checkpoint_every=4, validate_every=4, validation_seconds=LONG)


@pytest.mark.parametrize("kill_at", [4, 6, 13])
def test_a_resumed_run_validates_as_one_that_was_not_cut_off(
    kill_at: int, tmp_path: Path, store: TokenStore, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.train(fresh(decoder), store, SETTINGS, tmp_path / "whole", upkeep=UPKEEP)
    step = trainer._Run.step

    def dying(self: Any, number: int) -> dict[str, Any]:
        if number == kill_at:
            raise Killed
        return step(self, number)

    monkeypatch.setattr(trainer._Run, "step", dying)
    with pytest.raises(Killed):
        trainer.train(fresh(decoder), store, SETTINGS, tmp_path / "cut", upkeep=UPKEEP)
    monkeypatch.undo()
    trainer.train(fresh(decoder), store, SETTINGS, tmp_path / "cut", upkeep=UPKEEP)
    assert entries(tmp_path / "cut") == entries(tmp_path / "whole")
    assert [entry["step"] for entry in entries(tmp_path / "cut")] == [4, 8, 12, 14]


def test_validation_changes_no_weight(tmp_path: Path, store: TokenStore, decoder: Decoder) -> None:
    watched, unwatched = fresh(decoder), fresh(decoder)
    trainer.train(watched, store, SETTINGS, tmp_path / "watched", upkeep=UPKEEP)
    trainer.train(unwatched, store, SETTINGS, tmp_path / "unwatched")
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), unwatched.parameters(), strict=True))
    assert not entries(tmp_path / "unwatched")


def test_entries_are_what_the_picture_of_a_run_reads(tmp_path: Path, store: TokenStore, decoder: Decoder) -> None:
    trainer.train(decoder, store, SETTINGS, tmp_path, upkeep=UPKEEP)
    steps, _, lines, _ = _read(tmp_path / "metrics.jsonl")
    assert steps.tolist() == list(range(SETTINGS.steps))
    assert lines.keys() == HELD_OUT.keys()
    for source, (places, losses) in lines.items():
        assert places.tolist() == [4, 8, 12, 14]
        assert losses.tolist() == [entry["by_source"][source] for entry in entries(tmp_path)]


def test_without_held_out_rows_there_is_nothing_to_validate(
    tmp_path: Path, store: TokenStore, decoder: Decoder
) -> None:
    trainer.train(decoder, store, replace(SETTINGS, validation_fraction=0.0, steps=4), tmp_path, upkeep=UPKEEP)
    assert not entries(tmp_path)
