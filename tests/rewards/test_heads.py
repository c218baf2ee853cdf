"""Heads on one trunk and ensembles: fitted where the answer is known, and honest about disagreement."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean, stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Score, Sequence
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.objectives.reward.disentangled import correlation, disentangled
from rewardlab.rewards.disentangled import NAMES, DisentangledReward, fit_disentangled
from rewardlab.rewards.ensemble import Ensemble, EnsembleSettings, combine, precision_mean
from rewardlab.rewards.heads import Heads, load_heads, save_heads
from rewardlab.rewards.multi_objective import MultiObjectiveReward, fit_gate, fit_ratings
from rewardlab.rewards.shared_trunk import SharedTrunkEnsemble, fit_preferences
from support import tiny_policy

MODEL = tiny_policy()
WIDTH = 32


def answer(text: str, question: str = "How many?") -> Rollout:
    return Rollout(Prompt((Message("user", question),), place="a.jsonl:1"), Sequence((0,), (False,)), text)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(names: tuple[str, ...], rank: int = 2, seed: int = 0) -> Heads:
    """Heads whose every parameter matters."""
    heads = Heads(WIDTH, names, rank=rank, seed=seed)
    with torch.no_grad():
        heads.weight.copy_(normal(*heads.weight.shape, seed=seed))
        heads.up.copy_(normal(*heads.up.shape, seed=seed + 1))
    return heads


class Fixed:
    def __init__(self, name: str, *scores: Score) -> None:
        self.name, self.scores = name, list(scores)

    def score(self, rollouts: list[Rollout]) -> list[Score]:
        return self.scores[: len(rollouts)]


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6), st.floats(0, 3))
def test_aggregates(values: list[float], penalty: float) -> None:
    assert combine(values, "mean") == pytest.approx(fmean(values))
    assert combine(values, "min") == min(values)
    assert combine(values, "mean_minus_std", penalty=penalty) == pytest.approx(
        fmean(values) - penalty * stdev(values)
    )
    assert combine(values, "mean_minus_variance", penalty=penalty) <= combine(values, "mean") + 1e-9
    assert combine(values[::-1], "mean_minus_std") == pytest.approx(combine(values, "mean_minus_std"))
    assert precision_mean(values, [2.0] * len(values)) == pytest.approx(fmean(values), abs=1e-9)


def test_precision_trusts_the_certain() -> None:
    assert precision_mean([0.0, 1.0], [1.0, 0.5]) == pytest.approx(4 / 5)
    assert precision_mean([0.0, 1.0, 3.0], [1.0, 0.0, 0.0]) == 2.0
    assert precision_mean([0.0, 1.0], [1e-200, 1e-200]) == 0.5


def test_an_ensemble_keeps_every_member_and_never_a_part_of_them() -> None:
    rows = [answer("a"), answer("b"), answer("c")]
    one = Fixed("one", Score(1.0, uncertainty=1.0), Score(1.0), Score.error("broken"))
    two = Fixed("two", Score(3.0, uncertainty=1.0), Score.abstain("unsure"), Score.abstain("unsure"))
    scores = Ensemble("e", [one, two]).score(rows)
    assert scores[0].value == 2.0
    assert scores[0].uncertainty == pytest.approx(math.sqrt(2))
    assert scores[0].parts == {"e": 2.0, "one": 1.0, "two": 3.0}
    assert [s.status for s in scores] == ["ok", "abstain", "error"]
    assert ("unsure" in scores[1].reason, "broken" in scores[2].reason) == (True, True)
    assert Ensemble("e", [one, two], aggregate="precision").score(rows)[0].value == 2.0
    assert Ensemble("e", [one]).score(rows)[0].uncertainty is None
    bare = Ensemble("e", [Fixed("x", Score(1.0))], aggregate="precision").score(rows[:1])
    assert bare[0].status == "error"
    for members in ([], [one, one], [Fixed("e", Score(1.0))]):
        with pytest.raises(UserError):
            Ensemble("e", members)


def test_settings_find_the_members() -> None:
    class Rewards:
        def reward(self, name: str) -> Fixed:
            return Fixed(name, Score(float(len(name))))

    made = EnsembleSettings(members=["a", "abc"], aggregate="min").build("e", Rewards())
    assert made.score([answer("x")])[0].value == 1.0


def test_heads_by_hand_and_from_disk(tmp_path: Path) -> None:
    heads = filled(("a", "b", "c"))
    states = normal(6, WIDTH, seed=3)
    heads.standardise(states)
    h = (states - states.mean(0)) / states.std(0, unbiased=False)
    values = heads(states)
    for k in range(3):
        adapter = torch.nn.functional.gelu(h @ heads.down[k].T) @ heads.up[k]
        assert values[:, k].tolist() == pytest.approx((h @ heads.weight[k] + adapter).tolist(), abs=1e-4)
    save_heads(heads, tmp_path)
    loaded = load_heads(tmp_path)
    assert loaded.names == ("a", "b", "c")
    assert torch.equal(loaded(states), values)


def test_each_head_is_fitted_as_if_alone() -> None:
    chosen, rejected = normal(40, WIDTH, seed=1), normal(40, WIDTH, seed=2)
    together, alone = Heads(WIDTH, ["a", "b"]), Heads(WIDTH, ["a"])
    with torch.no_grad():
        alone.weight.copy_(together.weight[:1])
    for heads in (together, alone):
        fit_preferences(heads, chosen, rejected, bootstrap=False, steps=50)
    assert together.weight[0].tolist() == pytest.approx(alone.weight[0].tolist(), abs=1e-5)


def test_heads_learn_a_preference_and_disagree_more_where_there_were_no_data() -> None:
    """Half of the features hardly vary in the data, so the bootstraps say nothing about them."""
    truth = normal(WIDTH, seed=9)
    pairs = normal(2, 300, WIDTH, seed=4)
    pairs[:, :, 16:] *= 0.05  # half of the features hardly vary in training
    better = (pairs[0] @ truth > pairs[1] @ truth)[:, None]
    chosen, rejected = torch.where(better, pairs[0], pairs[1]), torch.where(better, pairs[1], pairs[0])
    heads = Heads(WIDTH, [f"h{i}" for i in range(6)])
    loss = fit_preferences(heads, chosen[:200], rejected[:200])
    assert loss < 0.4
    gap = (heads(chosen[200:]) - heads(rejected[200:])).mean(1)
    assert (gap > 0).float().mean() > 0.8
    seen, unseen = normal(200, WIDTH, seed=5), normal(200, WIDTH, seed=6)
    seen[:, 16:] *= 0.05
    assert heads(unseen).std(1).mean() > 3 * heads(seen).std(1).mean()
    everything = torch.cat([chosen[:200], rejected[:200]])
    assert heads(everything).mean(0).tolist() == pytest.approx([0] * 6, abs=1e-4)


def test_without_a_bootstrap_heads_from_one_start_agree() -> None:
    chosen, rejected = normal(40, WIDTH, seed=1), normal(40, WIDTH, seed=2)
    heads = Heads(WIDTH, ["a", "b"])
    with torch.no_grad():
        heads.weight[1] = heads.weight[0]
    fit_preferences(heads, chosen, rejected, bootstrap=False, steps=20)
    assert torch.equal(heads.weight[0], heads.weight[1])


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_shared_trunk_scores_each_text_by_itself(layout: str) -> None:
    texts = ["short", "a much longer answer than the other one", "a <|im_end|> inside"]
    engine = Engine(MODEL, EngineSettings(layout=layout, tokens_per_microbatch=40))
    reward = SharedTrunkEnsemble("e", engine, filled(("a", "b")), aggregate="min")
    together = reward.score([answer(t) for t in texts])
    assert [s.status for s in together] == ["ok", "ok", "error"]
    for text, score in zip(texts[:2], together, strict=False):
        alone = SharedTrunkEnsemble("e", Engine(MODEL), filled(("a", "b"))).score([answer(text)])[0]
        assert score.value == pytest.approx(min(alone.parts["a"], alone.parts["b"]), abs=1e-4)
        assert score.uncertainty == pytest.approx(stdev([alone.parts["a"], alone.parts["b"]]), abs=1e-4)


def test_heads_on_the_wrong_trunk_are_refused() -> None:
    with pytest.raises(UserError, match="width 8"):
        SharedTrunkEnsemble("e", Engine(MODEL), Heads(8, ["a"]))


def biased_pairs() -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """400 pairs whose labeller likes length as much as quality; states show both, in two directions."""
    quality, length = normal(2, 400, seed=1), normal(2, 400, seed=2)
    states = 0.3 * normal(2, 400, WIDTH, seed=3)
    states[:, :, 0] += quality
    states[:, :, 1] += length
    liked = quality + length
    swap = (liked[0] < liked[1])[:, None]
    order = torch.where(swap, 1, 0)
    pick = lambda x, first: torch.where(swap[:, 0] == first, x[1], x[0])  # noqa: E731
    chosen = torch.where(order == 1, states[1], states[0])
    rejected = torch.where(order == 1, states[0], states[1])
    return (
        chosen,
        rejected,
        (pick(length, True), pick(length, False)),
        torch.cat([pick(quality, True), pick(quality, False)]),
    )


def test_the_quality_head_forgets_the_length() -> None:
    chosen, rejected, lengths, quality = biased_pairs()
    heads = Heads(WIDTH, NAMES)
    fit_disentangled(heads, chosen, rejected, lengths)
    states, length = torch.cat([chosen, rejected]), torch.cat(lengths)
    found = heads(states)
    plain = Heads(WIDTH, ["all"])
    fit_preferences(plain, chosen, rejected, bootstrap=False)
    of_plain = correlation(plain(states)[:, 0], length)
    assert of_plain > 0.5  # a plain reward model has the labeller's taste for length
    assert correlation(found[:, 0], length).abs() < 0.1
    assert correlation(found[:, 1], length) > 0.8
    assert correlation(found[:, 0], quality) > correlation(plain(states)[:, 0], quality)
    cosine = torch.nn.functional.cosine_similarity(heads.weight[0], heads.weight[1], dim=0)
    assert cosine.abs() < 0.1


def test_the_disentangled_loss_by_hand_and_its_gradient() -> None:
    inputs = [normal(6, seed=i).double().requires_grad_() for i in (1, 2)]
    weights = [normal(4, seed=i).double().requires_grad_() for i in (3, 4)]
    length, label = normal(6, seed=5).double(), torch.tensor([1.0, 0.0, 0.5]).double()

    def loss(q: torch.Tensor, v: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return disentangled(q, v, length, label, (a, b), length_weight=0.5, orthogonal_weight=2.0)

    assert torch.autograd.gradcheck(loss, (*inputs, *weights))
    only_ranking = disentangled(*inputs, length, label, tuple(weights), length_weight=0, orthogonal_weight=0)
    total = inputs[0] + inputs[1]
    gap = total[:3] - total[3:]
    by_hand = -(label * gap.sigmoid().log() + (1 - label) * (-gap).sigmoid().log()).mean()
    assert only_ranking.item() == pytest.approx(by_hand.item())


def test_a_disentangled_reward_is_its_quality_head() -> None:
    heads = filled(NAMES, rank=0)
    score = DisentangledReward("r", Engine(MODEL), heads).score([answer("text")])[0]
    assert score.value == score.parts["quality"]
    assert "verbosity" in score.parts
    with pytest.raises(UserError):
        DisentangledReward("r", Engine(MODEL), filled(("a", "b")))


def test_ratings_with_gaps() -> None:
    states = normal(200, WIDTH, seed=1)
    ratings = torch.stack([states[:, 0] + 3, 2 * states[:, 1] - 1], 1)
    ratings[::3, 0] = torch.nan
    heads = Heads(WIDTH, ["help", "style"])
    fit_ratings(heads, states, ratings, steps=800, decay=0.0)
    complete = torch.stack([states[:, 0] + 3, 2 * states[:, 1] - 1], 1)
    assert (heads(states) - complete).abs().max() < 0.3
    with pytest.raises(UserError, match="style"):
        fit_ratings(heads, states, torch.tensor([[1.0, torch.nan]]).expand(200, 2))


def test_weights_and_gates() -> None:
    heads, gate = filled(("a", "b")), filled(("a", "b"), seed=5)
    rows = [answer("x"), answer("y"), answer("x", "Why?"), answer("<|im_end|>")]
    fixed = MultiObjectiveReward("r", Engine(MODEL), heads, {"a": 0.7, "b": -0.2}).score(rows)
    for score in fixed[:3]:
        assert score.value == pytest.approx(0.7 * score.parts["a"] - 0.2 * score.parts["b"])
    assert fixed[3].status == "error"
    gated = MultiObjectiveReward("r", Engine(MODEL), heads, gate).score(rows)
    shares = [(s.parts["gate/a"], s.parts["gate/b"]) for s in gated[:3]]
    assert all(sum(share) == pytest.approx(1) for share in shares)
    assert shares[0] == pytest.approx(shares[1], abs=1e-6)  # one prompt, one gate, whatever the answer
    assert shares[0] != pytest.approx(shares[2], abs=1e-6)
    for score, share in zip(gated, shares, strict=False):
        assert score.value == pytest.approx(share[0] * score.parts["a"] + share[1] * score.parts["b"])
    with pytest.raises(UserError, match="weights for"):
        MultiObjectiveReward("r", Engine(MODEL), heads, {"a": 1.0})


def test_a_gate_learns_which_head_counts_for_which_prompt() -> None:
    prompts, values = normal(300, WIDTH, seed=1), normal(2, 300, 2, seed=2) * 3
    counts = (prompts[:, 0] > 0).long()  # the sign of one feature says which head decides
    better = values[0].gather(1, counts[:, None]) > values[1].gather(1, counts[:, None])
    gate = Heads(WIDTH, ["a", "b"])
    fit_gate(
        gate,
        prompts,
        torch.where(better, values[0], values[1]),
        torch.where(better, values[1], values[0]),
        steps=500,
    )
    share = torch.softmax(gate(prompts), -1)
    assert (share.argmax(1) == counts).float().mean() > 0.85
