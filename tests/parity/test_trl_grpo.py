"""Our policy-gradient losses against TRL's own loss code, in value and gradient, in fp64.

TRL's `_compute_loss` runs on a stand-in trainer that hands it log-probs instead of a model's. The
differences that remain are in docs/parity_grpo.md.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl.trainer.grpo_trainer import GRPOTrainer

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.types import Sequence
from rewardlab.objectives.advantage import gdpo, group_relative
from rewardlab.objectives.mismatch import off_policy_keep
from rewardlab.objectives.policy_gradient import policy_gradient
from rewardlab.objectives.reduction import reduce

LENGTHS = (5, 1, 3, 7)
WIDTH = max(LENGTHS)
LIMIT = 9


class Case:
    """Ragged completions with one masked tool span, as TRL's padded matrices and as our flat batch."""

    def __init__(self, seed: int, spread: float = 0.5) -> None:
        g = torch.Generator().manual_seed(seed)

        def rand(scale: float) -> torch.Tensor:
            return scale * torch.randn(len(LENGTHS), WIDTH, generator=g, dtype=torch.float64)

        self.real = torch.arange(WIDTH)[None] < torch.tensor(LENGTHS)[:, None]
        self.mask = self.real.clone()
        self.mask[3, 2:4] = False  # a tool's output
        self.old = -rand(1.0).abs() - 0.1
        self.new = (self.old + rand(spread)).requires_grad_()
        self.ref = self.old + rand(0.3)
        self.entropy = rand(1.0).abs().requires_grad_()
        self.advantage = torch.randn(len(LENGTHS), generator=g, dtype=torch.float64)
        rows = []
        for i, n in enumerate(LENGTHS):
            action = (False, *self.mask[i, :n].tolist())
            rows.append(Sequence(tuple(range(n + 1)), action))
        self.batch = Batch.pack(rows).with_streams(
            logp_sample=self.flat(self.old),
            logp_ref=self.flat(self.ref),
            advantage=self.flat(self.advantage[:, None].expand(-1, WIDTH)),
        )

    def flat(self, x: torch.Tensor) -> torch.Tensor:
        """The real entries, with a 0 for each one-token prompt."""
        zero = x.new_zeros(1)
        return torch.cat([torch.cat([zero, row[: LENGTHS[i]]]) for i, row in enumerate(x)])

    def ours(self, **settings: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        out = Outputs(logp=self.flat(self.new), entropy=self.flat(self.entropy))
        loss = reduce(policy_gradient(out, self.batch, **settings), self.batch.counts())
        return self.gradients(loss)

    def gradients(self, loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        by_logp, by_entropy = torch.autograd.grad(
            loss, (self.new, self.entropy), allow_unused=True, materialize_grads=True
        )
        return loss.detach(), by_logp, by_entropy

    def theirs(self, loss_type: str, **changes: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        trainer, inputs = stand_in(self, loss_type, **changes)
        return self.gradients(GRPOTrainer._compute_loss(trainer, None, inputs))


def stand_in(case: Case, loss_type: str, **changes: Any) -> tuple[Any, dict[str, Any]]:
    """A trainer with one process and one micro-batch per step, and the inputs of that step."""
    args = {
        "delta": None,
        "use_bias_correction_kl": True,
        "sapo_temperature_pos": 1.0,
        "sapo_temperature_neg": 1.05,
        "vespo_k_pos": 2.0,
        "vespo_lambda_pos": 3.0,
        "vespo_k_neg": 3.0,
        "vespo_lambda_neg": 2.0,
        "steps_per_generation": 1,
    }
    knobs = {
        "importance_sampling_level": "token",
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.0,
        "entropy_coef": 0.0,
        "off_policy_mask_threshold": None,
        "use_vllm": False,
        "vllm_importance_sampling_correction": False,
    }
    args |= {k: v for k, v in changes.items() if k in args}
    knobs |= {k: v for k, v in changes.items() if k in knobs}
    trainer = SimpleNamespace(
        args=SimpleNamespace(**args),
        **knobs,
        loss_type=loss_type,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        max_completion_length=LIMIT,
        current_gradient_accumulation_steps=1,
        use_adaptive_entropy=False,
        _entropy_bonus_enabled=knobs["entropy_coef"] != 0.0,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            num_processes=1,
            sync_gradients=True,
            gather=lambda x: x,
            reduce=lambda x, reduction: x,
        ),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *a, **k: (case.new, case.entropy, None),
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
    )
    empty = torch.zeros(len(LENGTHS), 0, dtype=torch.long)
    mask = case.mask.to(torch.float64)
    inputs = {
        "prompt_ids": empty,
        "prompt_mask": empty,
        "completion_ids": torch.zeros(len(LENGTHS), WIDTH, dtype=torch.long),
        "completion_mask": case.real.to(torch.float64),
        "tool_mask": mask,
        "advantages": case.advantage,
        "old_per_token_logps": case.old,
        "ref_per_token_logps": case.ref,
        "num_items_in_batch": mask.sum(),
    }
    return trainer, inputs | changes.get("inputs", {})


EVEN = {"clip_low": 0.2, "clip_high": 0.2}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grpo": ({"loss": "grpo", "options": EVEN}, {"loss_type": "grpo"}),
    "bnpo": ({"loss": "bnpo"}, {"loss_type": "bnpo"}),
    "dr_grpo": ({"loss": "dr_grpo", "constant_length": LIMIT}, {"loss_type": "dr_grpo"}),
    "dapo": ({"loss": "dapo"}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "two_sided": (
        {"loss": "dual_clip", "options": {**EVEN, "dual_clip": 1.5}},
        {"loss_type": "dapo", "delta": 1.5},
    ),
    "gspo": (
        {"loss": "gspo", "options": {"clip_low": 0.1, "clip_high": 0.15}},
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "epsilon_low": 0.1,
            "epsilon_high": 0.15,
        },
    ),
    "luspo": (
        {"loss": "luspo", "options": {"clip_low": 0.1, "clip_high": 0.15}},
        {
            "loss_type": "luspo",
            "importance_sampling_level": "sequence",
            "epsilon_low": 0.1,
            "epsilon_high": 0.15,
        },
    ),
    "sapo": ({"loss": "sapo"}, {"loss_type": "sapo"}),
    "cispo": ({"loss": "cispo", "options": {"ratio_max": 1.3}}, {"loss_type": "cispo", "epsilon_high": 1.3}),
    "vespo": ({"loss": "vespo"}, {"loss_type": "vespo"}),
    "kl_importance": (
        {"loss": "grpo", "kl_coefficient": 0.3},
        {"loss_type": "grpo", "beta": 0.3},
    ),
    "kl_plain": (
        {"loss": "dapo", "kl_coefficient": 0.3, "kl_importance": False},
        {"loss_type": "dapo", "epsilon_high": 0.28, "beta": 0.3, "use_bias_correction_kl": False},
    ),
    "entropy_bonus": (
        {"loss": "bnpo", "entropy_coefficient": 0.2},
        {"loss_type": "bnpo", "entropy_coef": 0.2},
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_agree(name: str, seed: int) -> None:
    mine, peer = CASES[name]
    case = Case(seed)
    a, b = case.ours(**mine), case.theirs(**peer)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, atol=1e-9, rtol=1e-9)
    assert float(a[1].abs().sum()) > 1e-3  # not equal by both being nothing


@pytest.mark.parametrize("seed", range(3))
def test_importance_weights_multiply_the_policy_term_only(seed: int) -> None:
    case = Case(seed)
    weight = torch.rand(len(LENGTHS), WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    case.batch = case.batch.with_streams(importance=case.flat(weight))
    a = case.ours(loss="dapo", kl_coefficient=0.1)
    b = case.theirs(
        "dapo",
        epsilon_high=0.28,
        beta=0.1,
        use_vllm=True,
        vllm_importance_sampling_correction=True,
        inputs={"importance_sampling_ratio": weight},
    )
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_off_policy_sequence_mask_agrees(seed: int) -> None:
    case = Case(seed, spread=1.0)
    theirs = GRPOTrainer.get_off_policy_mask(
        case.advantage[:, None], case.new, case.old, case.mask.double(), 0.05
    ).expand(-1, WIDTH)
    ours = off_policy_keep(
        case.batch.streams["advantage"],
        case.flat(case.new.detach()),
        case.flat(case.old),
        case.batch,
        threshold=0.05,
    )
    at = case.batch.action
    assert torch.equal(ours[at], case.flat(theirs)[at])


def test_bnpo_in_trl_depends_on_the_micro_batch_and_ours_does_not() -> None:
    """The documented difference: TRL's bnpo averages each micro-batch over its own tokens."""
    case = Case(0)
    halves = ([0, 1], [2, 3])
    theirs = []
    for rows in halves:
        mask = torch.zeros(len(LENGTHS), WIDTH, dtype=torch.float64)
        mask[rows] = case.real[rows].double()
        theirs.append(float(case.theirs("bnpo", inputs={"completion_mask": mask})[0]))
    assert abs(sum(theirs) / 2 - float(case.theirs("bnpo")[0])) > 1e-3
    logp, counts = case.flat(case.new.detach()), case.batch.counts()
    parts = []
    for rows in halves:
        micro = case.batch.select(rows)
        parts.append(policy_gradient(Outputs(logp=logp[case.batch.tokens_of(rows)]), micro, loss="bnpo"))
    torch.testing.assert_close(sum(reduce(t, counts) for t in parts), case.ours(loss="bnpo")[0])


def test_group_advantages_by_trls_published_formula() -> None:
    """TRL: (r - mean) / (std + 1e-4), n - 1; its gdpo: per objective, then over the batch."""
    r = torch.tensor([[1.0, 0.0, 2.0, 2.0, 5.0, 1.0], [0.0, 1.0, 1.0, 3.0, 0.0, 2.0]], dtype=torch.float64)
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    weights = torch.tensor([1.0, 0.5], dtype=torch.float64)
    grouped = r.view(2, 2, 3)
    z = (grouped - grouped.mean(-1, keepdim=True)) / (grouped.std(-1, keepdim=True) + 1e-4)
    total = (weights[:, None] * z.view(2, 6)).sum(0)
    torch.testing.assert_close(gdpo(r, weights, group), (total - total.mean()) / (total.std() + 1e-4))
    torch.testing.assert_close(
        group_relative(r[0], group, scale_by_std=True), z[0].flatten(), atol=1e-3, rtol=1e-3
    )
