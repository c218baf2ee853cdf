"""Values that are known on paper: at the reference, at the optimum, in expectation over flipped labels."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from preference_batches import CASES, outputs, random_pairs, ready
from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.errors import UserError
from rewardlab.core.types import Sequence
from rewardlab.objectives.preference import (
    PreferenceSettings,
    combined_deviation,
    deviation,
    deviation_weight,
    divergence_score,
    implicit_reward,
    kl_baseline,
    kto,
    likelihood_weight,
    losses,
    match,
    preference,
    running_delta,
)
from rewardlab.objectives.preference.divergence import Divergence
from rewardlab.objectives.preference.scores import pair_sums
from rewardlab.objectives.reduction import reduce

BETA = 0.3
LOG2 = math.log(2)
AT_THE_REFERENCE = {
    "sigmoid": LOG2,
    "sigmoid_norm": LOG2,
    "robust": LOG2,
    "hinge": 1.0,
    "ipo": 1 / (4 * BETA**2),
    "exo_pair": 0.5 * math.log(0.5 / 0.999) + 0.5 * math.log(0.5 / 0.001),
    "discopop": 0.5 * LOG2 + 0.5,
    "nca_pair": 2 * LOG2,
    "bco_pair": 2 * LOG2,
    "sppo_hard": 2 / (4 * BETA**2),
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "aot": LOG2,
    "aot_unpaired": LOG2,
}


@pytest.mark.parametrize("name", AT_THE_REFERENCE)
def test_value_at_the_reference(name: str) -> None:
    knobs = PreferenceSettings.model_validate({"loss": name, "beta": BETA})
    batch, _ = random_pairs(0, plain=True)
    logp = batch.streams["logp_ref"].clone()
    batch = match(batch, logp, loss=knobs.loss, tail=knobs.tail)
    loss = reduce(preference(outputs(logp), batch, **knobs.knobs()), batch.counts())
    assert float(loss) == pytest.approx(AT_THE_REFERENCE[name])


def pairs_of_a_bandit(reference: Tensor, reward: Tensor) -> Batch:
    """Every ordered pair of a one-token policy's answers, labelled with its Bradley-Terry probability."""
    n = reference.numel()
    rows = [Sequence((0, k), (False, True)) for k in range(n)]
    first, second = torch.cartesian_prod(torch.arange(n), torch.arange(n)).unbind(1)
    logp_ref = torch.stack([torch.zeros_like(reference), reference], 1).flatten()
    label = torch.sigmoid(reward[first] - reward[second])
    batch = Batch.pack(rows).with_streams(logp_ref=logp_ref)
    return replace(batch, pairs=torch.stack([first, second], 1), pair_streams={"label": label})


def gradient_at(policy: Tensor, batch: Batch, knobs: PreferenceSettings) -> Tensor:
    """Gradient in the logits of a one-token policy."""
    logits = policy.log().clone().requires_grad_()
    logp = logits.log_softmax(0)
    flat = torch.stack([torch.zeros_like(logp), logp], 1).flatten()
    return torch.autograd.grad(
        reduce(preference(outputs(flat), batch, **knobs.knobs()), batch.counts()), logits
    )[0]


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "js", "alpha"])
@pytest.mark.parametrize("loss", ["sigmoid", "exo_pair"])
def test_the_optimum_of_each_divergence_is_stationary_for_its_loss_only(kind: str, loss: str) -> None:
    """The policy with beta f'(pi / ref) = reward: for the reverse KL it is ref exp(r / beta) / Z."""
    generator = torch.Generator().manual_seed(4)
    reference = torch.randn(5, generator=generator, dtype=torch.float64).log_softmax(0)
    policy = torch.randn(5, generator=generator, dtype=torch.float64).softmax(0)
    knobs = PreferenceSettings.model_validate(
        {"beta": BETA, "divergence": kind, "loss": loss, "exo_epsilon": 1e-12, "divergence_alpha": 0.4}
    )
    reward = BETA * divergence_score(policy.log() - reference, knobs.divergence, alpha=0.4)
    if kind == "reverse_kl":
        torch.testing.assert_close((reference + reward / BETA).softmax(0), policy)
    batch = pairs_of_a_bandit(reference, reward)
    assert gradient_at(policy, batch, knobs).abs().max() < 1e-9
    for other in {"reverse_kl", "forward_kl", "js"} - {kind}:
        wrong = knobs.model_copy(update={"divergence": other})
        assert gradient_at(policy, batch, wrong).abs().max() > 1e-4


@pytest.mark.parametrize(("name", "slope"), [("forward_kl", 1.0), ("js", 0.5), ("alpha", 1.0)])
def test_divergence_scores_at_the_reference(name: str, slope: float) -> None:
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    score = divergence_score(x, name, alpha=0.7)  # type: ignore[arg-type]
    assert score.item() == pytest.approx(0.0, abs=1e-12)
    assert float(torch.autograd.grad(score, x)[0]) == pytest.approx(slope)


def test_alpha_divergence_lies_between_the_two_kl() -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    torch.testing.assert_close(divergence_score(x, "alpha", alpha=1e-7), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(divergence_score(x, "alpha", alpha=1.0), divergence_score(x, "forward_kl"))


@pytest.mark.parametrize("y", [0.5, 0.8, 1.0])
def test_where_the_minimum_lies_for_a_soft_label(y: float) -> None:
    """IPO and SPPO: (y - 1/2) / beta; EXO: the log-odds of the target; sigmoid: those of the label."""
    label = torch.tensor([y], dtype=torch.float64)

    def slope(loss: object, at: float) -> float:
        g = torch.tensor([at], dtype=torch.float64, requires_grad=True)
        return float(torch.autograd.grad(loss(g).sum(), g)[0])  # type: ignore[operator]

    edge = (y - 0.5) / BETA
    assert slope(lambda g: losses.ipo(g, label, beta=BETA), edge) == pytest.approx(0, abs=1e-12)
    assert slope(lambda g: losses.sppo_hard(g, -g, label, beta=BETA), edge) == pytest.approx(0, abs=1e-12)
    target = y * 0.99 + (1 - y) * 0.01
    odds = math.log(target / (1 - target)) / BETA
    exo = losses.exo_pair(torch.tensor([odds], dtype=torch.float64), label, beta=BETA, epsilon=0.01)
    assert float(exo) == pytest.approx(0, abs=1e-12)
    assert slope(lambda g: losses.exo_pair(g, label, beta=BETA, epsilon=0.01), odds) == pytest.approx(0)
    if y < 1:
        odds = math.log(y / (1 - y)) / BETA
        assert slope(lambda g: losses.sigmoid(g, label, beta=BETA), odds) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("flip", [0.0, 0.1, 0.4])
def test_robust_loss_is_unbiased_under_flipped_labels(flip: float) -> None:
    gap = torch.linspace(-5, 5, 11, dtype=torch.float64)
    one, zero = torch.ones_like(gap), torch.zeros_like(gap)
    clean = losses.sigmoid(gap, one, beta=BETA)
    noisy = (1 - flip) * losses.robust(gap, one, beta=BETA, flip_rate=flip)
    noisy = noisy + flip * losses.robust(gap, zero, beta=BETA, flip_rate=flip)
    torch.testing.assert_close(noisy, clean)
    if flip:
        smoothed = losses.sigmoid(gap, one * (1 - flip), beta=BETA)
        assert (smoothed - clean).abs().max() > 0.1


def test_discopop_starts_by_lowering_the_gap() -> None:
    for tau in (0.05, 0.2, 1.0):
        gap = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        loss = losses.discopop(gap, torch.ones(1, dtype=torch.float64), beta=BETA, tau=tau)
        slope = float(torch.autograd.grad(loss.sum(), gap)[0])
        assert slope == pytest.approx(BETA * ((1 - LOG2) / (4 * tau) - 0.75))


def test_margin_shifts_the_gap_by_margin_over_beta() -> None:
    batch, logp = random_pairs(2, plain=True)
    margin = torch.tensor([0.7, -0.2, 0.0, 1.5], dtype=torch.float64)
    with_margin = replace(batch, pair_streams={"margin": margin})
    for name in ("sigmoid", "hinge", "ipo_sum", "exo_pair", "discopop", "robust"):
        knobs = CASES[name]
        at = torch.zeros_like(logp)
        at[batch.offsets[batch.pairs[:, 0] + 1] - 1] = margin / knobs.beta
        action = batch.action.clone()
        action[batch.offsets[1:] - 1] = True
        both = (replace(with_margin, action=action), replace(batch, action=action))
        left = preference(outputs(logp), both[0], **knobs.knobs())
        right = preference(outputs(logp - at), both[1], **knobs.knobs())
        for term in knobs.loss:
            torch.testing.assert_close(left[term].total, right[term].total)


def test_odds_ratio_from_probabilities() -> None:
    p, q = 0.6, 0.2
    expected = math.log1p(((q / (1 - q)) / (p / (1 - p))) * math.exp(0.3))
    c, r = torch.tensor([p]).double().log(), torch.tensor([q]).double().log()
    found = losses.odds_ratio(c, r, torch.ones(1).double(), torch.tensor([0.3]).double())
    assert float(found) == pytest.approx(expected)


def test_long_tails_are_scaled_and_cut_at_the_shorter_answer() -> None:
    """LD-DPO by hand: answers of 1 and 3 tokens, one of them an observation in between."""
    rows = [Sequence((9, 1), (False, True)), Sequence((9, 2, 3, 4, 5), (False, True, False, True, True))]
    batch = replace(Batch.pack(rows), pairs=torch.tensor([[0, 1], [1, 1]]))
    x = torch.tensor([0, 1.0, 0, 2.0, 100.0, 4.0, 8.0], dtype=torch.float64)
    assert pair_sums(x, batch).tolist() == [[1, 14], [14, 14]]
    assert pair_sums(x, batch, tail=0.5).tolist() == [[1, 8], [14, 14]]
    assert pair_sums(x, batch, tail=0.0).tolist() == [[1, 2], [14, 14]]


def test_aligned_likelihood_weights_average_to_one_on_the_policys_own_samples() -> None:
    full = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(0)
    rows = [Sequence((0, k), (False, True)) for k in range(4)] + [Sequence((0, 9), (False, True))]
    batch = replace(Batch.pack(rows), pairs=torch.tensor([[k, 4] for k in range(4)]))
    batch = batch.with_streams(weight=torch.tensor([0.0, 1.0] * 4 + [0.0, 0.0]))
    logp = torch.stack([torch.zeros(5, dtype=torch.float64), torch.cat([full, full[:1]])], 1).flatten()
    out = Outputs(logp=logp, slice_logp=full.expand(5, 4))
    weight = likelihood_weight(out, batch)
    assert float((full.exp() * weight).sum()) == pytest.approx(1.0)
    collision = torch.full((10,), float((2 * full).logsumexp(0)), dtype=torch.float64)
    torch.testing.assert_close(
        likelihood_weight(Outputs(logp=logp), batch.with_streams(log_collision=collision)), weight
    )
    torch.testing.assert_close(likelihood_weight(Outputs(logp=logp), batch), full.exp())


def test_deviation_is_scaled_per_prompt_and_floored() -> None:
    distance, group = torch.tensor([1.0, 3.0, 2.0, 5.0, 5.0]), torch.tensor([4, 4, 4, 2, 2])
    found = deviation(distance, group)
    assert found.tolist() == [-1, 1, 0, 0, 0]
    assert deviation_weight(found).tolist() == pytest.approx([0.2, 2, 1, 1, 1])
    both = combined_deviation(torch.tensor([1.0, -1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))
    assert both.tolist() == pytest.approx([2 * math.sqrt(0.5) - 1, -1, 0])


def test_running_delta_by_hand() -> None:
    batch, logp = random_pairs(6, 2, plain=True)
    change = (logp - batch.streams["logp_ref"]) * batch.action
    mean = float(change.sum()) / 4
    found = running_delta(1.0, logp, batch, beta=0.5, momentum=0.9)
    assert found == pytest.approx(0.9 + 0.1 * 0.5 * mean)


def test_kto_at_the_reference_and_its_baseline() -> None:
    batch, _ = random_pairs(1, 2, plain=True)
    logp = batch.streams["logp_ref"]
    zero = torch.zeros(4, dtype=torch.float64)
    parts = {"desirable": torch.tensor([1.0, 0, 1, 0]), "kl_baseline": zero}
    term = kto(outputs(logp), replace(batch, parts=parts), beta=BETA, undesirable_weight=3.0)["kto"]
    assert float(term.total) == pytest.approx(4.0)
    lower = logp - batch.action.double()
    assert float(kl_baseline(lower, batch)) == 0.0
    mean = float(batch.action.sum()) / 4
    higher = (logp + batch.action.double()).requires_grad_()
    baseline = kl_baseline(higher, batch)
    assert float(baseline) == pytest.approx(mean)
    assert not baseline.requires_grad


def test_implicit_rewards_are_differences_of_soft_values() -> None:
    """On a full binary tree of depth 3: running sums of beta log(pi* / ref) equal V_t - V_0 (arXiv 2412.01981)."""
    generator = torch.Generator().manual_seed(2)
    leaves = torch.cartesian_prod(*[torch.arange(2)] * 3)
    reward = torch.randn(8, generator=generator, dtype=torch.float64)
    step = [torch.randn(2**d, 2, generator=generator, dtype=torch.float64).log_softmax(-1) for d in range(3)]
    value = [reward]  # from the leaves up: V(prefix) = beta log sum_a ref(a) exp(V(prefix a) / beta)
    for logits in reversed(step):
        value.insert(0, BETA * torch.logsumexp(logits + value[0].view(-1, 2) / BETA, -1))
    for leaf in range(8):
        prefix, running = 0, torch.zeros((), dtype=torch.float64)
        for d in range(3):
            token = int(leaves[leaf, d])
            child = 2 * prefix + token
            best = step[d][prefix, token] + (value[d + 1][child] - value[d][prefix]) / BETA
            running = running + implicit_reward(best, step[d][prefix, token], beta=BETA)
            prefix = child
            torch.testing.assert_close(running, value[d + 1][child] - value[0][0])
        torch.testing.assert_close(running, reward[leaf] - value[0][0])


def test_a_mixture_is_the_weighted_sum_of_its_members() -> None:
    batch, logp = ready(CASES["mpo"], seed=9)
    mixed = reduce(preference(outputs(logp), batch, **CASES["mpo"].knobs(), bco_delta=0.1), batch.counts())
    total = 0.0
    for name, weight in CASES["mpo"].loss.items():
        alone = CASES["mpo"].model_copy(update={"loss": {name: 1.0}})
        total += weight * float(
            reduce(preference(outputs(logp), batch, **alone.knobs(), bco_delta=0.1), batch.counts())
        )
    assert float(mixed) == pytest.approx(total)


def test_reference_free_losses_need_no_reference_and_others_say_so() -> None:
    batch, logp = random_pairs(0)
    free = replace(batch, streams={})
    for name in ("simpo", "cpo", "orpo", "sft"):
        terms = preference(outputs(logp), free, **CASES[name].knobs())
        torch.testing.assert_close(
            terms[name].total, preference(outputs(logp), batch, **CASES[name].knobs())[name].total
        )
    with pytest.raises(UserError, match="logp_ref"):
        preference(outputs(logp), free, **CASES["sigmoid"].knobs())


def test_what_cannot_be_computed_is_refused_by_name() -> None:
    batch, logp = random_pairs(0)
    with pytest.raises(UserError, match="aot: the pairs of this batch are not ranked"):
        preference(outputs(logp), batch, **CASES["aot"].knobs())
    with pytest.raises(UserError, match="unequal values of `label`"):
        match(batch, logp, loss=CASES["aot_unpaired"].loss, tail=CASES["aot_unpaired"].tail)
    bare = replace(batch, pair_streams={})
    with pytest.raises(UserError, match="no `deviation`"):
        preference(outputs(logp), bare, **CASES["deviation"].knobs())
    with pytest.raises(UserError, match="kl_baseline"):
        kto(outputs(logp), replace(batch, parts={"desirable": torch.ones(8)}), beta=0.1)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"loss": "nca_pair", "divergence": "js"}, "no meaning for nca_pair"),
        ({"loss": {"aot_unpaired": 1.0, "sigmoid": 1.0}}, "cannot be mixed with sigmoid"),
        ({"loss": "aot", "likelihood_weighting": True}, "weights of pairs mean nothing"),
        ({"loss": "simpo", "tail": 0.5}, "simpo do not have"),
        ({"loss": "robust", "flip_rate": 0.5}, "less than 0.5"),
        ({"loss": "dpo"}, "loss"),
        ({"loss": {}}, "at least 1"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(knobs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreferenceSettings.model_validate(knobs)


@pytest.mark.parametrize("name", ["forward_kl", "alpha"])
def test_far_below_the_reference_a_divergence_still_has_a_slope(name: Divergence) -> None:
    """Beyond an exponent of 30 the score is a straight line that goes on with the slope it had there."""
    x = torch.tensor([-70.0, -200.0, -1000.0], dtype=torch.float64, requires_grad=True)
    score = divergence_score(x, name, alpha=0.5)
    slope = torch.autograd.grad(score.sum(), x)[0]
    torch.testing.assert_close(slope, torch.full_like(slope, math.exp(30)))


def test_no_gradient_flows_through_ktos_baseline() -> None:
    batch, logp = random_pairs(1, 2, plain=True)
    baseline = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    batch = replace(batch, parts={"desirable": torch.tensor([1.0, 0, 1, 0]), "kl_baseline": baseline})
    total = kto(outputs(logp.requires_grad_()), batch, beta=BETA)["kto"].total
    assert torch.autograd.grad(total, baseline, allow_unused=True)[0] is None


def test_label_smoothing_does_not_imitate_rejected_answers() -> None:
    batch, logp = random_pairs(1, plain=True)
    smoothed = PreferenceSettings.model_validate({"loss": "sft", "label_smoothing": 0.3})
    total = preference(outputs(logp.requires_grad_()), batch, **smoothed.knobs())["sft"].total
    torch.testing.assert_close(total, preference(outputs(logp), batch, **CASES["sft"].knobs())["sft"].total)
    gradient = torch.autograd.grad(total, logp)[0]
    rejected = torch.isin(batch.seq, batch.pairs[:, 1])
    assert (gradient[rejected] == 0).all()
    assert (gradient[batch.action & ~rejected] < 0).all()
