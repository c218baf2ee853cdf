"""Losses that pull a student to a teacher, from whatever of the teacher is at hand.

| known of the teacher                  | loss                           | read from                     |
|---------------------------------------|--------------------------------|-------------------------------|
| distribution over the vocabulary      | `distil`                       | action stream slice_logp[A,V] |
| its K most likely tokens per position | `distil` with `tail`           | slice_ids, slice_logp [A, K]  |
| log-prob of the student's own tokens  | `teacher_kl` in the loss, or   | stream logp_teacher [T]       |
|                                       | `teacher_advantage`            |                               |
| its answers only                      | `supervised.nll` on them       |                               |

On given answers or on the student's own samples the loss is the same function; on own samples the gradient
through the sampling is left out, as in GKD. Nothing here is wider than [A, K] at the A action positions.
Temperature: make the teacher's log-probs at the temperature that the batch's `temperature` stream holds.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.core.errors import UserError
from rewardlab.objectives import kl
from rewardlab.objectives.advantage import discounted_returns
from rewardlab.objectives.divergence import Divergence, Tail, at_actions, divergence, vocabulary_slice
from rewardlab.objectives.policy_gradient.aggregation import Aggregation
from rewardlab.objectives.reduction import Term, Terms, statistic
from rewardlab.objectives.supervised import weighted_sum


def distil(
    out: Outputs,
    batch: Batch,
    *,
    kind: Divergence = "forward_kl",
    beta: float = 0.5,
    tail: Tail = "bucket",
    aggregation: Aggregation = "token",
    constant_length: int | None = None,
) -> Terms:
    """A divergence between teacher and student at every trained token, with its exact gradient.

    forward_kl   sum_v T(v) (log T(v) - log S(v)), what word-level distillation uses (arXiv 1606.07947)
    reverse_kl   sum_v S(v) (log S(v) - log T(v)), per token what MiniLLM uses per answer (arXiv 2306.08543)
    jsd          the generalised Jensen-Shannon divergence of GKD (arXiv 2306.13649), see `generalised_jsd`

    Reads `Outputs.slice_logp` [A, K] and the batch's `slice_logp` [A, K] with `slice_ids` [A, K], or both
    [A, V] and no ids; `tail` says what becomes of the mass outside the K tokens (`close_slice`). TRL's
    DistillationTrainer and GKDTrainer: beta 0, between, 1 for the three, the whole vocabulary only.
    `teacher_mass` and `student_mass` are the means of the mass inside the slice before it is closed.
    """
    student, teacher = vocabulary_slice(out, batch, tail)
    loss = at_actions(divergence(student, teacher, kind, beta), batch)
    terms: Terms = {"distil": Term(*weighted_sum(loss, batch, aggregation, constant_length), 1.0)}
    if "slice_ids" in batch.action_streams:
        raw = {"student": given(out.slice_logp), "teacher": batch.action_streams["slice_logp"].to(student)}
        for name, logp in raw.items():
            mass = at_actions(logp.detach().exp().sum(-1), batch)
            terms[f"{name}_mass"] = statistic((mass * batch.trained).sum(), "token")
    return terms


def teacher_kl(
    out: Outputs,
    batch: Batch,
    *,
    coefficient: float = 1.0,
    estimator: kl.Estimator = "k2",
    importance: bool = True,
    aggregation: Aggregation = "token",
    constant_length: int | None = None,
) -> Terms:
    """KL(student || teacher) on the student's own samples, estimated from one teacher log-prob a token.

    Streams: logp_teacher; logp_sample where `importance`, which makes the estimate right for samples of an
    older student; teacher_weight, optional, multiplies this term only (see `teach_failures`). Estimators
    and gradients as in `kl.loss`; k1 is refused, k2 has the reverse KL's gradient and least variance.

    Beside `clipped` this is KDRL (Xu et al. 2025, arXiv 2506.02208), L = L_GRPO + coefficient * KL, with the
    coefficient falling from 5e-3 to 1e-3 over training. It trains each token for the teacher's opinion of
    that token, not of what follows from it: `teacher_advantage` with discount 1 does the latter.
    `teacher_gap` is the mean of log S - log T, the k1 estimate of the KL.
    """
    trained = batch.trained
    logp = torch.where(trained, given(out.logp), 0.0)
    teacher = torch.where(trained, batch.streams["logp_teacher"].to(logp), 0.0)
    refuse_impossible(teacher)
    log_ratio = torch.where(trained, logp - batch.streams["logp_sample"], 0.0) if importance else None
    loss = kl.loss(logp, teacher, estimator, log_ratio=log_ratio)
    if (weight := batch.streams.get("teacher_weight")) is not None:
        loss = loss * weight
    return {
        "teacher_kl": Term(*weighted_sum(loss, batch, aggregation, constant_length), coefficient),
        "teacher_gap": statistic((logp - teacher).sum(), "token"),
    }


def teacher_advantage(logp: Tensor, logp_teacher: Tensor, batch: Batch, *, discount: float = 0.0) -> Tensor:
    """Reverse KL by policy gradient: how much more the teacher likes a token than the student does. Float[T].

    A_t = sum_{s >= t} discount^(s - t) (log T(s) - log S(s)) over the actions of t's sequence, no gradient

    Put it in the stream `advantage` (alone, or added to a reward's) and train with any policy-gradient
    loss; log S is the sampling policy's, stream logp_sample. discount 1 gives the gradient of the KL between
    whole answers, sum over tokens. discount 0 (what tinker and Thinking Machines call on-policy distillation)
    gives that of the next-token KL at the visited prefixes: less variance, blind to where a token leads. Only
    actions are steps: tokens in between (a tool's output) neither discount nor count. 0 outside actions.
    """
    if not 0.0 <= discount <= 1.0:
        raise UserError(f"discount must lie between 0 and 1, got {discount}.", "0 looks at the token alone.")
    gap = torch.where(batch.action, logp_teacher - logp, 0.0).detach()
    refuse_impossible(gap)
    return discounted_returns(gap, batch, gamma=discount)


def refuse_impossible(x: Tensor) -> None:
    """A token that the student drew and the teacher gives probability 0 makes the reverse KL infinite."""
    if not bool(torch.isfinite(x).all()):
        raise UserError(
            "logp_teacher: the log-prob of a sampled token is not finite.",
            "Score with the teacher's whole distribution, without top-k or top-p, and check its vocabulary.",
        )


def teach_failures(
    reward: Tensor, group: Tensor, *, solved: float, level: Literal["sequence", "group"] = "sequence"
) -> Tensor:
    """Weights that keep the teacher away from what the student can do already (KDRL's mask). Float[N].

    sequence: 1 where reward < solved.  group: 1 where no answer to the same prompt reaches `solved`.
    Computed when the batch is filled, on whole groups; spread to tokens with `[batch.seq]` as the stream
    teacher_weight. An answer without a score (NaN) counts as not solved.
    """
    right = reward >= solved
    if level == "group":
        _, number = group.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        hits = torch.zeros(group.numel(), dtype=torch.long, device=group.device)
        right = hits.index_add(0, number, right.long())[number] > 0
    return (~right).to(torch.get_default_dtype())
