"""Every policy-gradient loss: exact gradients, finite everywhere, the same however the step is split."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.errors import UserError
from rewardlab.core.types import Sequence
from rewardlab.objectives.policy_gradient import (
    METHODS,
    LossName,
    Tokens,
    options_of,
    policy_gradient,
    prepare,
)
from rewardlab.objectives.reduction import reduce

LOSSES: tuple[LossName, ...] = get_args(LossName)
PER_TOKEN = tuple(METHODS)
THROUGH_THE_SCORE = {"cispo", "vespo", "dppo_tv", "dppo_kl", "reinforce", "gpg", "gspo_token"}
"""Losses that have no gradient through the ratio."""


def tokens(seed: int, spread: float = 0.4) -> Tokens:
    """Two sequences of actions, a third one cut by an observation, and no prompt."""
    g = torch.Generator().manual_seed(seed)
    seq = torch.tensor([0, 0, 0, 1, 2, 2, 2])
    action = torch.tensor([True, True, True, True, True, False, True])
    log_ratio = spread * torch.randn(7, generator=g, dtype=torch.float64) * action
    return Tokens(
        logp=-torch.rand(7, generator=g, dtype=torch.float64) - 0.1,
        log_ratio=log_ratio,
        advantage=torch.randn(7, generator=g, dtype=torch.float64),
        action=action,
        seq=seq,
        size=3,
        selected=torch.tensor([True, False, False, True, False, False, False]),
    )


def evaluate(name: str, x: Tokens, logp: torch.Tensor, log_ratio: torch.Tensor) -> torch.Tensor:
    method = METHODS[name]
    y = Tokens(logp, log_ratio, x.advantage, x.action, x.seq, x.size, x.selected)
    knobs = {k: v for k, v in method.defaults.items() if k in method.loss.__kwdefaults__}
    return method.loss(y, **knobs).loss * x.action


@pytest.mark.parametrize("name", PER_TOKEN)
@pytest.mark.parametrize("seed", range(4))
def test_gradient_by_finite_differences(name: str, seed: int) -> None:
    """In the ratio with the score fixed, and in the score with the ratio fixed; detached parts give 0."""
    x = tokens(seed)

    def by_ratio(r: torch.Tensor) -> torch.Tensor:
        return evaluate(name, x, x.logp, r)

    def by_score(p: torch.Tensor) -> torch.Tensor:
        return evaluate(name, x, p, x.log_ratio)

    ratio = x.log_ratio.clone().requires_grad_()
    score = x.logp.clone().requires_grad_()
    if name in THROUGH_THE_SCORE:
        value = by_ratio(ratio)
        assert not value.requires_grad or not torch.autograd.grad(value.sum(), ratio)[0].any()
        if name == "gspo_token":  # straight-through: by its definition the value does not move
            return
        assert torch.autograd.gradcheck(by_score, (score,), eps=1e-7, atol=1e-5)
        assert float(torch.autograd.grad(by_score(score).abs().sum(), score)[0].abs().sum()) > 0
    else:
        assert torch.autograd.gradcheck(by_ratio, (ratio,), eps=1e-7, atol=1e-5)
        assert not by_score(score).requires_grad
        assert float(torch.autograd.grad(by_ratio(ratio).abs().sum(), ratio)[0].abs().sum()) > 0


def test_gspo_token_gradient_is_the_clipped_sequence_ratio_times_the_score() -> None:
    x = tokens(1, spread=0.01)
    mean = torch.zeros(3, dtype=torch.float64).index_add(0, x.seq, x.log_ratio) / torch.tensor([3, 1, 2])
    ratio = mean.exp()[x.seq]
    free = torch.where(
        x.advantage > 0,
        ratio <= 1 + 4e-4,
        ratio >= 1 - 3e-4,
    )
    score = x.logp.clone().requires_grad_()
    got = torch.autograd.grad(evaluate("gspo_token", x, score, x.log_ratio).sum(), score)[0]
    torch.testing.assert_close(got, -ratio * x.advantage * free * x.action)


def random_step(lengths: list[int], seed: int, spread: float = 0.3) -> tuple[Batch, torch.Tensor]:
    """A step of groups of three with prompts, observations, weights of 0 and 0.5, and its log-probs."""
    g = torch.Generator().manual_seed(seed)
    rows = []
    for n in lengths:
        action = (torch.rand(n, generator=g) < 0.7).tolist()
        action[0], action[-1] = False, True
        rows.append(Sequence(tuple(range(n)), tuple(action)))
    batch = Batch.pack(rows, group=[i // 3 for i in range(len(rows))])
    total = batch.ids.numel()

    def noise() -> torch.Tensor:
        return torch.randn(total, generator=g, dtype=torch.float64)

    old = -noise().abs() * batch.action
    weight = torch.tensor([0.0, 0.5, 1.0, 1.0])[torch.randint(0, 4, (total,), generator=g)] * batch.action
    reward = torch.randn(len(rows), generator=g, dtype=torch.float64)
    filled = Batch(batch.ids, batch.offsets, batch.action, group=batch.group, reward=reward).with_streams(
        logp_sample=old,
        logp_ref=old + 0.2 * noise() * batch.action,
        advantage=reward[batch.seq] * batch.action,
        weight=weight.double(),
        importance=noise().abs(),
    )
    return filled, (old + spread * noise()) * batch.action


def gradient(batch: Batch, logp: torch.Tensor, loss: LossName, parts: list[list[int]]) -> torch.Tensor:
    """Of the whole step's loss in its log-probs, over these micro-batches."""
    leaf = logp.clone().requires_grad_()
    counts = batch.counts()
    total = torch.zeros((), dtype=torch.float64)
    for rows in parts:
        out = Outputs(logp=leaf[batch.tokens_of(rows)], entropy=leaf[batch.tokens_of(rows)] ** 2)
        terms = policy_gradient(
            out, batch.select(rows), loss=loss, constant_length=8, kl_coefficient=0.1, entropy_coefficient=0.1
        )
        total = total + reduce(terms, counts)
    return torch.autograd.grad(total, leaf)[0]


@pytest.mark.parametrize("loss", LOSSES)
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_split_and_order_change_no_gradient(loss: LossName, data: st.DataObject) -> None:
    groups = data.draw(st.integers(2, 4))
    lengths = data.draw(st.lists(st.integers(2, 6), min_size=3 * groups, max_size=3 * groups))
    batch, logp = random_step(lengths, data.draw(st.integers(0, 1000)))
    batch = prepare(batch, loss, torch.Generator().manual_seed(0))
    together = gradient(batch, logp, loss, [list(range(batch.size))])
    if loss == "gvpo":  # micro-batches hold whole groups, rows in any order within
        order = data.draw(st.permutations(range(groups)))
        parts = [data.draw(st.permutations([3 * g, 3 * g + 1, 3 * g + 2])) for g in order]
    else:
        rows = data.draw(st.permutations(range(batch.size)))
        cuts = sorted(data.draw(st.sets(st.integers(1, batch.size - 1), max_size=3)))
        parts = [list(rows[a:b]) for a, b in zip([0, *cuts], [*cuts, batch.size], strict=True)]
    torch.testing.assert_close(gradient(batch, logp, loss, [list(p) for p in parts]), together)


@pytest.mark.parametrize("loss", LOSSES)
def test_inserted_observation_tokens_change_no_gradient(loss: LossName) -> None:
    batch, logp = random_step([4, 5, 3, 6, 2, 4], seed=3)
    batch = prepare(batch, loss, torch.Generator().manual_seed(0))
    after = 2  # inside the first sequence

    def insert(x: torch.Tensor, fill: float) -> torch.Tensor:
        return torch.cat([x[:after], x.new_full((2,), fill), x[after:]])

    longer = Batch(
        ids=insert(batch.ids, 7),
        offsets=batch.offsets + 2 * (torch.arange(batch.size + 1) > 0),
        action=insert(batch.action, False),
        streams={k: insert(v, 0.0) for k, v in batch.streams.items()},
        group=batch.group,
        reward=batch.reward,
        pairs=batch.pairs,
    )
    rows = [list(range(batch.size))]
    grown = gradient(longer, insert(logp, -0.3), loss, rows)
    assert not grown[after : after + 2].any()
    kept = torch.cat([grown[:after], grown[after + 2 :]])
    torch.testing.assert_close(kept, gradient(batch, logp, loss, rows))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("gap", [-1000.0, 1000.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_for_log_ratios_of_a_thousand(
    loss: LossName, gap: float, advantage: float, dtype: torch.dtype
) -> None:
    rows = [Sequence((1, 2, 3), (False, True, True)), Sequence((1, 2), (False, True))]
    batch = Batch.pack(rows, group=[0, 0])
    old = torch.tensor([0.0, -1.0, -1001.0, 0.0, -2.0], dtype=dtype)
    batch = Batch(
        batch.ids, batch.offsets, batch.action, group=batch.group, reward=torch.tensor([1.0, 0.0])
    ).with_streams(logp_sample=old, logp_ref=old, advantage=advantage * batch.action.to(dtype))
    batch = prepare(batch, loss, torch.Generator().manual_seed(0))
    logp = (old + gap * batch.action).clone().requires_grad_()
    out = Outputs(logp=logp)
    loss_value = reduce(
        policy_gradient(out, batch, loss=loss, constant_length=3, kl_coefficient=0.1), batch.counts()
    )
    loss_value.backward()
    assert torch.isfinite(loss_value)
    assert torch.isfinite(logp.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_with_every_row_masked_is_zero(loss: LossName) -> None:
    batch, logp = random_step([3, 4, 2], seed=0)
    batch = batch.with_streams(weight=torch.zeros(9))
    batch = prepare(batch, loss, torch.Generator().manual_seed(0))
    assert not gradient(batch, logp, loss, [[0, 1, 2]]).any()


@pytest.mark.parametrize("loss", [x for x in LOSSES if x != "gvpo"])
def test_zero_advantage_gives_exactly_no_gradient(loss: LossName) -> None:
    batch, logp = random_step([3, 4, 2], seed=0)
    batch = batch.with_streams(advantage=torch.zeros(9, dtype=torch.float64))
    batch = prepare(batch, loss, torch.Generator().manual_seed(0))
    leaf = logp.clone().requires_grad_()
    total = policy_gradient(Outputs(logp=leaf), batch, loss=loss, constant_length=8)["pg"].total
    found = torch.autograd.grad(total, leaf)[0]
    if loss == "kl_cov":  # its penalty on the selected tokens does not depend on the advantage
        found = found * (batch.streams["selected"] == 0)
    assert not found.any()


@pytest.mark.parametrize("loss", [x for x in LOSSES if x not in ("gvpo", "clip_cov")])
def test_on_policy_every_loss_is_the_plain_policy_gradient(loss: LossName) -> None:
    """At pi = pi_old the direction is -A grad log pi per token; only sequence ratios spread it evenly."""
    batch, _ = random_step([3, 4, 2], seed=5)
    advantage = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    batch = batch.with_streams(
        advantage=advantage[batch.seq] * batch.action, weight=batch.action.double(), importance=torch.ones(9)
    )
    batch = prepare(batch, loss, torch.Generator().manual_seed(0))
    leaf = batch.streams["logp_sample"].clone().requires_grad_()
    terms = policy_gradient(Outputs(logp=leaf), batch, loss=loss, aggregation="sequence_sum")
    found = torch.autograd.grad(terms["pg"].total, leaf)[0]
    torch.testing.assert_close(found, -batch.streams["advantage"])
    assert float(terms["drift"].total) == 0.0
    assert float(terms["ratio"].total) == batch.counts()["token"]


def test_aggregations_by_hand() -> None:
    rows = [Sequence((0, 1, 2, 3), (False, True, True, True)), Sequence((0, 1), (False, True))]
    batch = Batch.pack(rows).with_streams(
        logp_sample=torch.zeros(6), advantage=torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, 5.0])
    )

    def value(**how: object) -> float:
        terms = policy_gradient(Outputs(logp=torch.zeros(6)), batch, **how)
        return float(reduce(terms, batch.counts()))

    assert value(aggregation="token") == pytest.approx(-8 / 4)
    assert value(aggregation="sequence") == pytest.approx(-(1 + 5) / 2)
    assert value(aggregation="constant", constant_length=10) == pytest.approx(-8 / 10 / 2)
    assert value(aggregation="sequence_sum") == pytest.approx(-8 / 2)
    assert value(loss="dr_grpo", constant_length=10) == pytest.approx(-8 / 10 / 2)
    with pytest.raises(UserError, match="fixed number of tokens"):
        value(loss="dr_grpo")


def test_only_trained_tokens_make_a_sequences_length() -> None:
    rows = [Sequence((0, 1, 2, 3), (False, True, True, True)), Sequence((0, 1), (False, True))]
    batch = Batch.pack(rows).with_streams(
        logp_sample=torch.zeros(6),
        advantage=torch.tensor([0.0, 1.0, 3.0, 7.0, 0.0, 5.0]),
        weight=torch.tensor([0.0, 0.0, 1.0, 0.5, 0.0, 0.0]),
    )
    terms = policy_gradient(Outputs(logp=torch.zeros(6)), batch, loss="grpo")
    assert float(reduce(terms, batch.counts())) == pytest.approx(-(3 + 0.5 * 7) / 2)


@pytest.mark.parametrize("loss", [x for x in LOSSES if x not in ("reinforce", "gpg")])
def test_the_trainers_own_log_probs_replace_the_samplers_where_given(loss: LossName) -> None:
    batch, logp = random_step([3, 4, 5], seed=2)
    shifted = batch.with_streams(logp_sample=batch.streams["logp_sample"] - 3.0 * batch.action)
    shifted = shifted.with_streams(logp_old=batch.streams["logp_sample"])
    g = torch.Generator().manual_seed(0)
    plain = gradient(prepare(batch, loss, g), logp, loss, [[0, 1, 2]])
    g = torch.Generator().manual_seed(0)
    torch.testing.assert_close(gradient(prepare(shifted, loss, g), logp, loss, [[0, 1, 2]]), plain)


def test_unknown_options_are_refused_with_the_known_ones() -> None:
    batch, logp = random_step([3, 4, 2], seed=0)
    with pytest.raises(UserError, match=r"gspo: it has no option dual_clip.*clip_low, clip_high"):
        policy_gradient(Outputs(logp=logp), batch, loss="gspo", options={"dual_clip": 3.0})
    assert options_of("luspo") == {"clip_low": 3e-4, "clip_high": 4e-4}
    assert options_of("dual_clip")["dual_clip"] == 3.0
    with pytest.raises(UserError, match="inside the clip range"):
        policy_gradient(Outputs(logp=logp), batch, options={"dual_clip": 1.1})


def test_clipped_share_is_counted_over_trained_tokens() -> None:
    batch, logp = random_step([6, 6, 6], seed=1, spread=2.0)
    terms = policy_gradient(Outputs(logp=logp), batch)
    ratio = (logp - batch.streams["logp_sample"]).exp()
    a = batch.streams["advantage"]
    outside = ((a > 0) & (ratio > 1.28)) | ((a < 0) & (ratio < 0.8))
    assert float(terms["clipped"].total) == float((outside & batch.trained).sum()) > 0
