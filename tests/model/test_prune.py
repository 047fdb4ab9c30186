from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from f2llm.core.errors import ConfigError
from f2llm.core.types import Depth, Importance
from f2llm.model import checkpoint
from f2llm.model.decoder import Decoder
from f2llm.model.importance import Batch, Scores, score
from f2llm.model.prune import Rule, choose, prune, search_shape
from f2llm.model.weights import LoadedWeights
from f2llm.text.tokenizer import Tokenizer
from tests.conftest import SMALL, random_decoder

CU = [0, 20, 32, 44, 50]
DEAD_HIDDEN, DEAD_MLP = 19, 33


def some_ids(seed: int = 0) -> Tensor:
    return torch.randint(0, SMALL.vocab_size, (CU[-1],), generator=torch.Generator().manual_seed(seed))


def score_of(decoder: Decoder, batches: Sequence[Batch] = ()) -> Scores:
    return score(LoadedWeights(decoder), batches or [(some_ids(), CU)])


def dying(seed: int = 0) -> tuple[Decoder, Tensor]:
    """A decoder with dead hidden channels (nothing is ever written to them) and dead MLP channels; the living ones."""
    decoder = random_decoder(SMALL, seed)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(SMALL.hidden, generator=generator)
    dead = order[:DEAD_HIDDEN]
    with torch.no_grad():
        decoder.embed_tokens.weight[:, dead] = 0
        for layer in decoder.layers:
            layer.self_attn.o_proj.weight[dead] = 0
            layer.mlp.down_proj.weight[dead] = 0
            layer.mlp.gate_proj.weight[torch.randperm(SMALL.mlp, generator=generator)[:DEAD_MLP]] = 0
    return decoder, order[DEAD_HIDDEN:].sort().values


@pytest.mark.parametrize("importance", ["l1", "l2", "variance"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_dead_channels_go_without_a_trace(dtype: torch.dtype, tolerance: float, importance: Importance) -> None:
    decoder, living = dying()
    decoder = decoder.to(dtype)
    scores = score_of(decoder, [(some_ids(), CU), (some_ids(1), torch.tensor(CU))])
    shape = replace(SMALL, hidden=SMALL.hidden - DEAD_HIDDEN, mlp=SMALL.mlp - DEAD_MLP)
    small = prune(decoder, scores, shape, Rule(importance))
    assert sum(parameter.numel() for parameter in small.parameters()) == shape.parameters
    with torch.no_grad():
        states = [small(some_ids(2), CU), decoder(some_ids(2), CU)[:, living]]
    one, other = (F.normalize(state, dim=-1) for state in states)
    assert (one - other).abs().max() < tolerance
    torch.testing.assert_close(*states, rtol=tolerance, atol=10 * tolerance)  # not only the directions


def test_small_activations_keep_their_epsilon() -> None:
    decoder, living = dying()
    with torch.no_grad():
        decoder.embed_tokens.weight *= 0.02
    small = prune(decoder.double(), score_of(decoder), replace(SMALL, hidden=len(living)))
    states = decoder.embed_tokens(some_ids())
    assert states.square().mean() < 1e-6, "the epsilon decides here"
    with torch.no_grad():
        assert (small(some_ids(), CU) - decoder(some_ids(), CU)[:, living]).abs().max() < 1e-12


def test_the_same_shape_is_the_same_model(small_decoder: Decoder) -> None:
    small = prune(small_decoder, score_of(small_decoder), SMALL)
    torch.testing.assert_close(small(some_ids(), CU), small_decoder(some_ids(), CU), atol=2e-6, rtol=0)


def test_channels_of_equal_strength_leave_the_scale_alone() -> None:
    decoder = random_decoder(replace(SMALL, hidden=400, layers=1), spread=0.0)
    small = prune(decoder, score_of(decoder), replace(decoder.shape, hidden=200))
    assert small.layers[0].input_layernorm.weight[0].item() == pytest.approx(1.0, abs=0.1)


def test_the_first_layers_stay(small_decoder: Decoder) -> None:
    small = prune(small_decoder, score_of(small_decoder), replace(SMALL, layers=2))
    assert len(small.layers) == 2
    for name, tensor in small.layers.state_dict().items():
        torch.testing.assert_close(tensor, small_decoder.layers.state_dict()[name])


def test_strong_channels_win_and_keep_their_order(small_decoder: Decoder) -> None:
    decoder = random_decoder(SMALL)
    strong = [40, 3, 17]
    with torch.no_grad():
        decoder.embed_tokens.weight[:, strong] *= 30
    scores = score_of(decoder)
    assert scores.tokens == CU[-1]
    small = prune(decoder, scores, replace(SMALL, hidden=3))
    ratio = small.embed_tokens.weight / decoder.embed_tokens.weight[:, sorted(strong)]
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4, atol=0)


def test_a_pruned_model_is_saved_with_a_fitting_config(
    small_decoder: Decoder, small_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    shape = replace(SMALL, hidden=32, layers=2, mlp=40)
    small = prune(small_decoder, score_of(small_decoder), shape)
    checkpoint.save(
        small, tmp_path / "m", tokenizer=small_tokenizer, max_seq_length=40, prompts={"query": ""},
        matryoshka_dims=[8, 16, 32], card="",
    )  # fmt: skip
    config = checkpoint.read_config(tmp_path / "m")
    assert (config["layer_types"], config["max_window_layers"]) == (["full_attention"] * 2, 2)
    again = checkpoint.load(tmp_path / "m")
    assert again.shape == shape
    torch.testing.assert_close(again(some_ids(), CU), small(some_ids(), CU), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("field", "value"), [("hidden", 49), ("layers", 4), ("mlp", 0), ("heads", 2), ("head_dim", 8), ("vocab_size", 300)]
)
def test_impossible_targets_are_named(small_decoder: Decoder, field: str, value: int) -> None:
    scores = score_of(small_decoder)
    with pytest.raises(ConfigError, match=rf"shape\.{field} is {value}"):
        prune(small_decoder, scores, replace(SMALL, **{field: value}))


@pytest.mark.parametrize("depth", ["first", "influence", "norm_change"])
def test_a_layer_that_does_nothing_goes_first(depth: Depth) -> None:
    decoder = random_decoder(SMALL)
    with torch.no_grad():
        decoder.layers[1].self_attn.o_proj.weight.zero_()
        decoder.layers[1].mlp.down_proj.weight.zero_()
    choice = choose(SMALL, score_of(decoder), replace(SMALL, layers=2), Rule(depth=depth))
    assert choice.layers == ([0, 1] if depth == "first" else [0, 2])
    small = prune(decoder, score_of(decoder), replace(SMALL, layers=2), Rule(depth=depth))
    difference = (small(some_ids(), CU) - decoder(some_ids(), CU)).abs().max()
    assert (difference < 3e-6) == (depth != "first")


def test_rules_choose_as_they_say() -> None:
    decoder = random_decoder(SMALL)
    scores, shape = score_of(decoder), replace(SMALL, hidden=16, mlp=20)
    assert choose(SMALL, scores, shape, Rule("prefix")).channels.tolist() == list(range(16))
    found = {rule: choose(SMALL, scores, shape, Rule(rule)).channels.tolist() for rule in ("l1", "magnitude", "random")}
    assert len({tuple(channels) for channels in found.values()}) == 3
    assert found["random"] == choose(SMALL, scores, shape, Rule("random")).channels.tolist()
    assert found["random"] != choose(SMALL, scores, shape, Rule("random", seed=1)).channels.tolist()
    by_last = choose(SMALL, scores, shape, Rule(aggregate="last")).channels
    assert by_last.tolist() == scores.hidden_square[-1].topk(16).indices.sort().values.tolist()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_searched_shape_meets_the_budget(share: float) -> None:
    parent = replace(SMALL, hidden=192, layers=6, mlp=512)
    scores = score_of(random_decoder(parent))
    budget = round(share * parent.parameters)
    shape = search_shape(parent, scores, budget)
    assert 0.98 * budget <= shape.parameters <= budget
    assert (shape.heads, shape.vocab_size) == (parent.heads, parent.vocab_size)


def test_the_search_gives_up_what_is_dead() -> None:
    """Half of the MLP channels are dead, all else is alive: a budget that only they exceed takes them."""
    parent = replace(SMALL, hidden=64, layers=2, mlp=512)
    decoder = random_decoder(parent)
    with torch.no_grad():
        for layer in decoder.layers:
            layer.mlp.gate_proj.weight[256:] = 0
    alive = replace(parent, mlp=256)
    assert search_shape(parent, score_of(decoder), alive.parameters) == alive


def test_a_budget_out_of_reach_is_refused() -> None:
    scores = score_of(random_decoder(SMALL))
    with pytest.raises(ConfigError, match="params=10 cannot be reached"):
        search_shape(SMALL, scores, 10)
