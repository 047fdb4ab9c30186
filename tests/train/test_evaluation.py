"""A scorer sees the present weights, and whatever it does, the training is the one that it would be without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from f2llm.core.errors import ConfigError
from f2llm.data.store import TokenStore
from f2llm.model.decoder import Decoder
from f2llm.model.pack import embed, make_pack
from f2llm.train import evaluation, trainer
from f2llm.train.distributed import Replica, World
from f2llm.train.evaluation import Embed, Evaluation
from f2llm.train.metrics import read_metrics
from f2llm.train.settings import Upkeep
from tests.train.test_trainer import SETTINGS, Killed, fresh

UPKEEP = Upkeep(checkpoint_every=5, keep_last=9, evaluate_every=3)
DUE = [3, 6, 9, 12, 14]
TEXTS = [np.array(ids) for ids in ([7, 9, 4, 3, 5, 8], [7, 9, 4, 3, 2], [7, 9, 4, 3, 6, 6, 6, 1], [7, 9, 4, 3, 2])]


def score(embed: Embed, seconds: float) -> dict[str, Any]:
    """A number that tells the weights apart, and as much noise as it can make."""
    torch.rand(7)
    torch.manual_seed(len(TEXTS))
    vectors = embed(TEXTS)
    assert not torch.is_inference_mode_enabled()
    return {"ndcg@10": float(vectors[0] @ vectors[2]), "by_language": {"deu_Latn": {"ndcg@10": 0.5, "queries": 2}}}


def broken(embed: Embed, seconds: float) -> dict[str, Any]:
    score(embed, seconds)
    raise ValueError("[no] luck")


def run(directory: Path, store: TokenStore, decoder: Decoder, scorer: Any, upkeep: Upkeep = UPKEEP) -> Decoder:
    model = fresh(decoder)
    torch.manual_seed(5)  # the random state is a part of each checkpoint
    trainer.train(model, store, SETTINGS, directory, upkeep=upkeep, scorer=scorer)
    return model


def entries(directory: Path) -> list[dict[str, Any]]:
    """Evaluation entries, without the time that they took."""
    found = [entry for entry in read_metrics(directory / "metrics.jsonl") if entry.get("kind") == "evaluation"]
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in found]


def files(directory: Path) -> dict[str, bytes]:
    """The checkpoints, random state and moments included."""
    root = directory / "checkpoints"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(evaluation, "warn", said.append)
    return said


def alone(scorer: Any, decoder: Decoder, max_tokens: int = 10_000) -> Evaluation:
    return Evaluation(scorer, Replica(decoder, World(), "fsdp", "fp32"), max_tokens)


@pytest.mark.parametrize("max_tokens", [10_000, 10])
@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], [*TEXTS, np.array([1])]])
def test_texts_have_the_vectors_that_the_decoder_gives(texts: list[Any], max_tokens: int, decoder: Decoder) -> None:
    found: list[Any] = []
    alone(lambda embed, _: found.append(embed(texts)) or {}, decoder, max_tokens).run(1, 9.0)
    with torch.no_grad():
        expected = [embed(decoder, make_pack([text]))[0].numpy() for text in texts]
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert all(parameter.grad is None for parameter in decoder.parameters())


def test_the_scorer_gets_the_budget_and_its_numbers_are_the_entry(decoder: Decoder) -> None:
    found = alone(lambda _, seconds: {"ndcg@10": seconds}, decoder).run(3, 0.25)
    assert {**found, "seconds": 0} == {"kind": "evaluation", "ndcg@10": 0.25, "seconds": 0}


@pytest.mark.parametrize("scorer", [score, broken])
def test_a_run_that_is_scored_has_the_bits_of_one_that_is_not(
    scorer: Any, tmp_path: Path, store: TokenStore, decoder: Decoder, warnings: list[str]
) -> None:
    scored = run(tmp_path / "scored", store, decoder, scorer)
    plain = run(tmp_path / "plain", store, decoder, None)
    assert all(torch.equal(a, b) for a, b in zip(scored.parameters(), plain.parameters(), strict=True))
    assert scored.training == plain.training
    assert files(tmp_path / "scored") == files(tmp_path / "plain") != {}
    assert [entry["step"] for entry in entries(tmp_path / "scored")] == DUE
    assert not entries(tmp_path / "plain")


def test_each_score_is_that_of_the_weights_then(tmp_path: Path, store: TokenStore, decoder: Decoder) -> None:
    run(tmp_path, store, decoder, score)
    found = [entry["ndcg@10"] for entry in entries(tmp_path)]
    assert len(set(found)) == len(DUE)


def test_a_failure_is_told_once_and_written_down(
    tmp_path: Path, store: TokenStore, decoder: Decoder, warnings: list[str]
) -> None:
    run(tmp_path, store, decoder, broken)
    assert warnings == ["no evaluation after step 3, training goes on: ValueError: \\[no] luck"]
    assert [entry["error"] for entry in entries(tmp_path)] == ["ValueError: [no] luck"] * len(DUE)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (lambda embed: {"ndcg@10": np.float32(1)}, "float32 is not JSON serializable"),
        (lambda embed: {"ndcg@10": "much"}, "format"),
        (lambda embed: None, "NoneType"),
        (lambda embed: embed([]), "0 texts were not embedded"),
        (lambda embed: embed([np.array([10**6])]), "1 texts were not embedded"),
    ],
)
def test_whatever_goes_wrong_is_an_entry(result: Any, words: str, decoder: Decoder, warnings: list[str]) -> None:
    found = alone(lambda embed, _: result(embed), decoder).run(1, 9.0)
    assert words in found["error"]
    assert len(warnings) == 1


def test_a_users_mistake_is_told_in_its_own_words(decoder: Decoder, warnings: list[str]) -> None:
    def mistaken(*_: Any) -> dict[str, Any]:
        raise ConfigError("raise the budget")

    assert alone(mistaken, decoder).run(1, 9.0)["error"] == "raise the budget"


@pytest.mark.parametrize("kill_at", [3, 5, 7, 13])
def test_a_resumed_run_is_scored_as_one_that_was_not_cut_off(
    kill_at: int, tmp_path: Path, store: TokenStore, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after an evaluation and before the next checkpoint, the evaluation is done again and stands there once."""
    whole = run(tmp_path / "whole", store, decoder, score)
    step = trainer._Run.step

    def dying(self: Any, number: int) -> dict[str, Any]:
        if number == kill_at:
            raise Killed
        return step(self, number)

    monkeypatch.setattr(trainer._Run, "step", dying)
    with pytest.raises(Killed):
        run(tmp_path / "cut", store, decoder, score)
    monkeypatch.undo()
    assert [entry["step"] for entry in entries(tmp_path / "cut")] == [due for due in DUE if due <= kill_at]
    resumed = run(tmp_path / "cut", store, decoder, score)
    assert entries(tmp_path / "cut") == entries(tmp_path / "whole")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


class Sink:
    def __init__(self) -> None:
        self.found: list[tuple[int, dict[str, float]]] = []

    def write(self, step: int, values: dict[str, float]) -> None:
        self.found.append((step, values))

    def close(self) -> None: ...


def test_trackers_and_the_bar_get_the_score(
    tmp_path: Path, store: TokenStore, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink, notes = Sink(), list[str]()
    monkeypatch.setattr(trainer, "open_sinks", lambda *_, **__: [sink])
    monkeypatch.setattr(trainer.Bar, "advance", lambda self, amount=1, note="": notes.append(note))
    run(tmp_path, store, decoder, score)
    told = [(step, values) for step, values in sink.found if "evaluation/ndcg@10" in values]
    assert [step for step, _ in told] == DUE
    assert all(values["evaluation/by_language/deu_Latn/queries"] == 2 for _, values in told)
    newest = [entry["ndcg@10"] for entry in entries(tmp_path)]
    assert "ndcg@10" not in notes[3]
    assert notes[4].endswith(f", ndcg@10 {newest[0]:.3f}")


@pytest.mark.parametrize("every", [0, 100])
def test_never_and_only_in_the_end(every: int, tmp_path: Path, store: TokenStore, decoder: Decoder) -> None:
    run(tmp_path, store, decoder, score, Upkeep(evaluate_every=every))
    assert [entry["step"] for entry in entries(tmp_path)] == ([SETTINGS.steps] if every else [])
