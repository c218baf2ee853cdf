"""The same log-probs through TRL's own loss code and through ours: values and gradients agree in fp64.

TRL's mathematics stands inside trainer methods. They are called here on a trainer object that was not
initialised and has only the attributes they read, with a stand-in for the model that returns given
log-probs. What differs on purpose is listed in docs/parity.md; a test holds that page to these tests.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import trl
from trl import DPOConfig, DPOTrainer, KTOTrainer, RewardTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from preference_batches import outputs, random_pairs
from rewardlab.core.batch import Batch, Outputs, sum_by_sequence
from rewardlab.objectives.preference import LossName, PreferenceSettings, kl_baseline, kto, match, preference
from rewardlab.objectives.reduction import reduce
from rewardlab.objectives.reward import bradley_terry

TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}
PAGE = Path(__file__).parents[2] / "docs" / "parity.md"


class Stub(torch.nn.Module):
    """A model that answers with given per-token numbers: those of `kl` where the first id is 1, else `main`."""

    is_gradient_checkpointing = False

    def __init__(self, answers: dict[str, Tensor], collision: Tensor | None = None) -> None:
        super().__init__()
        self.answers, self.collision = answers, collision

    def forward(self, **kwargs: Any) -> SimpleNamespace:
        ids = kwargs["input_ids"]
        logp = self.answers["kl" if int(ids[0, 0]) == 1 else "main"]
        zero = torch.zeros_like(logp).detach()
        return SimpleNamespace(
            log_probs=logp,
            entropy=zero,
            mean_logits=zero,
            is_top1=zero.bool(),
            log_sum_sq_probs=self.collision,
            logits=self.answers.get("scores"),
        )


def padded(x: Tensor, batch: Batch, sequences: Tensor) -> Tensor:
    """A token stream as rows of [chosen; rejected], padded on the right."""
    offsets = batch.offsets.tolist()
    return pad_sequence([x[offsets[i] : offsets[i + 1]] for i in sequences.tolist()], batch_first=True)


def trainer_of(kind: type, **attributes: Any) -> Any:
    """A trainer without a model, a data set or a process group."""
    made = kind.__new__(kind)
    same = lambda x: x  # noqa: E731
    common = {
        "accelerator": SimpleNamespace(device=torch.device("cpu"), gather=same, gather_for_metrics=same),
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "aux_loss_enabled": False,
        "precompute_ref_logps": False,
    }
    for name, value in {**common, **attributes}.items():
        setattr(made, name, value)
    return made


def trl_dpo(logp: Tensor, batch: Batch, knobs: dict[str, Any]) -> Tensor:
    """The loss that `DPOTrainer` would step on."""
    order = batch.pairs.T.flatten()
    mask = padded(batch.action.long(), batch, order)
    acting = batch.action
    model = Stub(
        {"main": padded(logp * acting, batch, order)[:, 1:]},
        padded(batch.streams["log_collision"], batch, order)[:, 1:],
    )
    reference = Stub({"main": padded(batch.streams["logp_ref"] * acting, batch, order)[:, 1:]})
    given = {
        "beta": 0.1,
        "loss_types": ["sigmoid"],
        "ld_alpha": None,
        "f_divergence_type": "reverse_kl",
        "f_alpha_divergence_coef": 0.5,
        "label_smoothing": 0.0,
        "use_weighting": False,
        **knobs,
    }
    arguments = SimpleNamespace(
        discopop_tau=given.pop("discopop_tau", 0.05), gradient_checkpointing_kwargs=None
    )
    given.setdefault("loss_weights", [1.0] * len(given["loss_types"]))
    trainer = trainer_of(DPOTrainer, model=model, ref_model=reference, args=arguments, **given)
    ids = torch.zeros_like(mask)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": mask}
    loss: Tensor = trainer._compute_loss(model, inputs, return_outputs=False)
    return loss


def ours(logp: Tensor, batch: Batch, knobs: dict[str, Any]) -> Tensor:
    settings = PreferenceSettings.model_validate(knobs)
    if settings.needs_whole_step:
        batch = match(batch, logp, loss=settings.loss, tail=settings.tail)
    return reduce(preference(outputs(logp), batch, **settings.knobs()), batch.counts())


def plain_batch(seed: int, pairs: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Batch, Tensor]:
    batch, logp = random_pairs(seed, pairs, plain=True, dtype=dtype)
    return replace(batch, pair_streams={}), logp


def assert_same(left: Any, right: Any, x: Tensor) -> None:
    """Equal values and equal gradients in x, which must not vanish."""
    x = x.clone().requires_grad_()
    values = [f(x) for f in (left, right)]
    gradients = [torch.autograd.grad(v, x)[0] for v in values]
    torch.testing.assert_close(values[0], values[1], check_dtype=False, **TOLERANCE)
    torch.testing.assert_close(gradients[0], gradients[1], **TOLERANCE)
    assert gradients[0].abs().max() > 1e-4


SAME = {
    "sigmoid": ({"beta": 0.2}, {"beta": 0.2}),
    "hinge": ({"loss_types": ["hinge"]}, {"loss": "hinge"}),
    "ipo": ({"loss_types": ["ipo"]}, {"loss": "ipo"}),
    "exo_pair": (
        {"loss_types": ["exo_pair"], "label_smoothing": 1e-3},
        {"loss": "exo_pair", "exo_epsilon": 1e-3},
    ),
    "nca_pair": ({"loss_types": ["nca_pair"]}, {"loss": "nca_pair"}),
    "robust": ({"loss_types": ["robust"], "label_smoothing": 0.2}, {"loss": "robust", "flip_rate": 0.2}),
    "bco_pair": ({"loss_types": ["bco_pair"]}, {"loss": "bco_pair"}),
    "sppo_hard": ({"loss_types": ["sppo_hard"]}, {"loss": "sppo_hard"}),
    "aot": ({"loss_types": ["aot"]}, {"loss": "aot"}),
    "aot smoothed": (
        {"loss_types": ["aot"], "label_smoothing": 0.1},
        {"loss": "aot", "label_smoothing": 0.1},
    ),
    "aot_unpaired": ({"loss_types": ["aot_unpaired"]}, {"loss": "aot_unpaired"}),
    "aot_unpaired smoothed": (
        {"loss_types": ["aot_unpaired"], "label_smoothing": 0.1},
        {"loss": "aot_unpaired", "label_smoothing": 0.1},
    ),
    "apo_zero": ({"loss_types": ["apo_zero"]}, {"loss": "apo_zero"}),
    "apo_down": ({"loss_types": ["apo_down"]}, {"loss": "apo_down"}),
    "discopop": ({"loss_types": ["discopop"]}, {"loss": "discopop"}),
    "discopop tau": (
        {"loss_types": ["discopop"], "discopop_tau": 0.5},
        {"loss": "discopop", "discopop_tau": 0.5},
    ),
    "sigmoid_norm": ({"loss_types": ["sigmoid_norm"], "beta": 5.0}, {"loss": "sigmoid_norm", "beta": 5.0}),
    "forward_kl": ({"f_divergence_type": "forward_kl"}, {"divergence": "forward_kl"}),
    "js": ({"f_divergence_type": "js_divergence"}, {"divergence": "js"}),
    "js ipo": (
        {"f_divergence_type": "js_divergence", "loss_types": ["ipo"]},
        {"divergence": "js", "loss": "ipo"},
    ),
    "LD-DPO": ({"ld_alpha": 0.4}, {"tail": 0.4}),
    "LD-DPO cut, length-normalised": (
        {"ld_alpha": 0.0, "loss_types": ["sigmoid_norm"]},
        {"tail": 0.0, "loss": "sigmoid_norm"},
    ),
    "LD-DPO aot": ({"ld_alpha": 0.3, "loss_types": ["aot"]}, {"tail": 0.3, "loss": "aot"}),
    "WPO": ({"use_weighting": True}, {"likelihood_weighting": True}),
    "WPO ipo": (
        {"use_weighting": True, "loss_types": ["ipo"]},
        {"likelihood_weighting": True, "loss": "ipo"},
    ),
    "MPO without sft": (
        {"loss_types": ["sigmoid", "bco_pair"], "loss_weights": [0.8, 0.2]},
        {"loss": {"sigmoid": 0.8, "bco_pair": 0.2}},
    ),
}
COMPARED = {name.split()[0] for name in SAME} & set(get_args(LossName)) | {"sft"}


def test_the_peer_is_the_version_that_the_page_speaks_of() -> None:
    assert trl.__version__ == "1.16.0"
    assert f"trl=={trl.__version__}" in PAGE.read_text()


def test_all_losses_of_the_peer_are_compared() -> None:
    described = DPOConfig.__dataclass_fields__["loss_type"].metadata["help"]
    listed = described.split("Possible values are: ")[1].split(".")[0]
    assert set(re.findall(r"\w+", listed)) == COMPARED
    assert len(COMPARED) == 15


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("seed", [0, 1])
def test_same_value_and_gradient_as_trl(name: str, seed: int) -> None:
    batch, logp = plain_batch(seed)
    theirs, mine = SAME[name]
    assert_same(lambda x: trl_dpo(x, batch, theirs), lambda x: ours(x, batch, mine), logp)


def test_alpha_divergence_agrees_in_fp32_with_one_minus_alpha() -> None:
    """TRL's version has no fp64 path (docs/parity.md)."""
    batch, logp = plain_batch(0, dtype=torch.float32)
    theirs = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}
    mine = {"divergence": "alpha", "divergence_alpha": 0.7}
    assert_same(lambda x: trl_dpo(x, batch, theirs), lambda x: ours(x, batch, mine), logp)
    doubled, logp64 = plain_batch(0)
    with pytest.raises(KeyError):
        trl_dpo(logp64, doubled, theirs)


def test_label_smoothing_of_the_sigmoid_loss_is_ours_alone() -> None:
    batch, logp = plain_batch(0)
    plain, smoothed = ({"label_smoothing": e} for e in (0.0, 0.2))
    torch.testing.assert_close(trl_dpo(logp, batch, smoothed), trl_dpo(logp, batch, plain))
    assert abs(float(ours(logp, batch, smoothed) - ours(logp, batch, plain))) > 1e-3


def test_sft_term_is_a_mean_over_pairs_here_and_over_chosen_tokens_there() -> None:
    """Equal where the chosen answers are equally long; else TRL's is ours with weights by length."""
    batch, logp = plain_batch(3)
    lengths = sum_by_sequence(batch.action.double(), batch)[batch.pairs[:, 0]]
    assert lengths.unique().numel() > 1
    weighted = replace(batch, pair_streams={"weight": lengths / lengths.mean()})
    theirs = {"loss_types": ["sft"]}
    assert_same(lambda x: trl_dpo(x, batch, theirs), lambda x: ours(x, weighted, {"loss": "sft"}), logp)
    assert abs(float(trl_dpo(logp, batch, theirs) - ours(logp, batch, {"loss": "sft"}))) > 1e-3


def test_two_micro_batches_of_trl_sort_less_than_the_step() -> None:
    """TRL's aot over two accumulated halves is not its aot over the whole; ours is one number."""
    batch, logp = plain_batch(0)
    theirs = {"loss_types": ["aot"]}
    halves = [batch.tokens_of(list(range(a, a + 6))) for a in (0, 6)]
    parts = [
        trl_dpo(logp[t], batch.select(list(range(a, a + 6))), theirs)
        for t, a in zip(halves, (0, 6), strict=True)
    ]
    whole = trl_dpo(logp, batch, theirs)
    assert abs(float(sum(parts) / 2 - whole)) > 1e-4
    torch.testing.assert_close(ours(logp, batch, {"loss": "aot"}), whole)


def test_far_ratios_overflow_there_and_not_here() -> None:
    batch, logp = plain_batch(0, dtype=torch.float32)
    far = batch.with_streams(logp_ref=batch.streams["logp_ref"] + 200.0 * batch.action)
    theirs = {"f_divergence_type": "forward_kl"}
    assert not torch.isfinite(trl_dpo(logp, far, theirs))
    assert torch.isfinite(ours(logp, far, {"divergence": "forward_kl"}))
    far = batch.with_streams(logp_ref=batch.streams["logp_ref"] + 1000.0 * batch.action)
    assert not torch.isfinite(trl_dpo(logp, far, {"loss_types": ["discopop"]}))
    assert torch.isfinite(ours(logp, far, {"loss": "discopop"}))


def kto_batches(seed: int) -> tuple[Batch, Tensor, Batch, Tensor, Tensor]:
    batch, logp = plain_batch(seed)
    batch = replace(batch, pairs=batch.pairs[:0])
    other, other_logp = plain_batch(seed + 50)
    other = replace(other, pairs=other.pairs[:0])
    other = other.with_streams(logp_ref=other.streams["logp_ref"] - 0.4)  # a positive baseline
    flags = torch.tensor([1.0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1], dtype=torch.float64)
    return batch, logp, other, other_logp, flags


def trl_kto(
    logp: Tensor, batch: Batch, other_logp: Tensor, other: Batch, flags: Tensor, **knobs: Any
) -> Tensor:
    order = torch.arange(batch.size)
    mask, other_mask = (padded(b.action.long(), b, order) for b in (batch, other))

    def stub(x: Tensor, y: Tensor) -> Stub:
        return Stub(
            {
                "main": padded(x * batch.action, batch, order)[:, 1:],
                "kl": padded(y * other.action, other, order)[:, 1:],
            }
        )

    model = stub(logp, other_logp)
    trainer = trainer_of(
        KTOTrainer,
        model=model,
        ref_model=stub(batch.streams["logp_ref"], other.streams["logp_ref"]),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        calculate_KL=knobs.get("loss_type", "kto") == "kto",
        **{"loss_type": "kto", "beta": 0.3, "desirable_weight": 1.0, "undesirable_weight": 1.0, **knobs},
    )
    ids, other_ids = torch.zeros_like(mask), torch.ones_like(other_mask)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": mask,
        "KL_input_ids": other_ids,
        "KL_attention_mask": other_ids,
        "KL_completion_mask": other_mask,
        "label": flags.bool(),
    }
    loss: Tensor = trainer._compute_loss(model, inputs, return_outputs=False)
    return loss


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.8)])
def test_kto_and_its_baseline(seed: int, weights: tuple[float, float]) -> None:
    batch, logp, other, other_logp, flags = kto_batches(seed)
    baseline = kl_baseline(other_logp, other)
    assert float(baseline) > 0.1
    filled = replace(batch, parts={"desirable": flags, "kl_baseline": baseline.expand(batch.size)})
    names = dict(zip(("desirable_weight", "undesirable_weight"), weights, strict=True))
    assert_same(
        lambda x: trl_kto(x, batch, other_logp, other, flags, **names),
        lambda x: reduce(kto(outputs(x), filled, beta=0.3, **names), filled.counts()),
        logp,
    )


def test_kto_with_baseline_zero_is_trls_unpaired_apo_zero() -> None:
    batch, logp, other, other_logp, flags = kto_batches(2)
    filled = replace(batch, parts={"desirable": flags, "kl_baseline": torch.zeros(batch.size)})
    assert_same(
        lambda x: trl_kto(x, batch, other_logp, other, flags, loss_type="apo_zero_unpaired"),
        lambda x: reduce(kto(outputs(x), filled, beta=0.3), filled.counts()),
        logp,
    )


def means(x: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    lengths = sum_by_sequence(batch.action.double(), batch)
    mean = sum_by_sequence(x * batch.action, batch) / lengths
    return mean[batch.pairs[:, 0]], mean[batch.pairs[:, 1]]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_simpo_and_cpo(smoothing: float) -> None:
    batch, logp = plain_batch(4)
    common = {"alpha": 0.0, "beta": 2.0, "label_smoothing": smoothing}
    simpo = trainer_of(CPOTrainer, loss_type="simpo", simpo_gamma=0.5, **common)
    if smoothing == 0.0:
        knobs = {"loss": "simpo", "beta": 2.0}
        theirs = lambda x: simpo.cpo_loss(*means(x, batch))[0].mean()  # noqa: E731
        assert_same(theirs, lambda x: ours(x, batch, knobs), logp)
    cpo = trainer_of(CPOTrainer, loss_type="sigmoid", **common)
    knobs = {"loss": "cpo", "beta": 2.0, "nll_weight": 0.0, "label_smoothing": smoothing}

    def sums(x: Tensor) -> tuple[Tensor, Tensor]:
        total = sum_by_sequence(x * batch.action, batch)
        return total[batch.pairs[:, 0]], total[batch.pairs[:, 1]]

    assert_same(lambda x: cpo.cpo_loss(*sums(x))[0].mean(), lambda x: ours(x, batch, knobs), logp)


def test_odds_ratio_of_orpo() -> None:
    batch, logp = plain_batch(5)
    trainer = trainer_of(ORPOTrainer, beta=0.3)
    knobs = {"loss": "orpo", "beta": 0.3, "nll_weight": 0.0}
    assert_same(
        lambda x: -trainer.odds_ratio_loss(*means(x, batch))[0].mean(), lambda x: ours(x, batch, knobs), logp
    )


def test_bradley_terry_with_margin_and_centring() -> None:
    scores = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch, _ = plain_batch(6, pairs=4)
    margin = torch.linspace(0, 1, 4, dtype=torch.float64)
    batch = replace(batch, pair_streams={"margin": margin})

    def theirs(x: Tensor) -> Tensor:
        order = batch.pairs.T.flatten()
        model = Stub({"main": x, "scores": x[order][:, None]})
        trainer = trainer_of(
            RewardTrainer, model=model, args=SimpleNamespace(center_rewards_coefficient=0.05)
        )
        inputs = {"input_ids": torch.zeros(8, 1), "attention_mask": torch.ones(8, 1), "margin": margin}
        loss: Tensor = trainer.compute_loss(model, inputs)
        return loss

    assert_same(
        theirs,
        lambda x: reduce(bradley_terry(Outputs(scores=x), batch, centring=0.05), batch.counts()),
        scores,
    )


def test_the_page_lists_every_difference_that_these_tests_show() -> None:
    table = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    named = " ".join(line.split("|")[1] for line in table)
    for method in ("sft", "label_smoothing", "aot", "forward_kl", "alpha", "discopop", "kto", "orpo"):
        assert f"`{method}`" in named, method
