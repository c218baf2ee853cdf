"""Exact divergences between two next-token distributions, over the whole vocabulary or a slice of it.

Functions take log-probs Float[A, K] of the student (with gradient) and of the teacher at the same K
tokens and give Float[A], in nats. A token to which the first distribution of a KL gives probability 0 adds 0.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.core.errors import UserError
from rewardlab.objectives import kl

Tail = Literal["bucket", "truncate", "renormalise"]
Divergence = Literal["forward_kl", "reverse_kl", "jsd"]


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(student || teacher): the student may leave out what the teacher does, and do nothing else.

    Refuses a teacher with log-probs of -inf: the divergence is infinite there.
    """
    if bool(torch.isneginf(teacher).any()):
        raise UserError(
            "reverse_kl: the teacher gives probability 0 to a token, so the divergence is infinite.",
            "Use `forward_kl` or `jsd`, or a slice without padding and `tail: bucket`.",
        )
    return kl.full(student, teacher, "reverse")


def generalised_jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Generalised Jensen-Shannon divergence (GKD, Agarwal et al. 2023, arXiv 2306.13649).

    m = beta * teacher + (1 - beta) * student
    JSD = beta * KL(teacher || m) + (1 - beta) * KL(student || m), 0 < beta < 1

    Bounded by the entropy of (beta, 1 - beta). It vanishes at both ends: JSD / beta -> KL(teacher || student)
    for beta -> 0 and JSD / (1 - beta) -> KL(student || teacher) for beta -> 1. TRL takes beta = 0 and 1 to
    mean these two, unscaled, so that its loss jumps there; here the ends are refused and have names.
    """
    if not 0.0 < beta < 1.0:
        raise UserError(
            f"jsd: beta must lie between 0 and 1, both excluded, got {beta}.",
            "For the two ends use `forward_kl` (0) or `reverse_kl` (1).",
        )
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * kl.full(teacher, mixture) + (1.0 - beta) * kl.full(student, mixture)


def divergence(student: Tensor, teacher: Tensor, kind: Divergence, beta: float = 0.5) -> Tensor:
    """One of the three by name: KL(teacher || student), KL(student || teacher), JSD with `beta`.

    forward_kl makes the student cover all that the teacher does; reverse_kl lets it leave things out.
    """
    if kind == "forward_kl":
        return kl.full(student, teacher, "forward")
    if kind == "reverse_kl":
        return reverse_kl(student, teacher)
    return generalised_jsd(student, teacher, beta)


def log_rest(logp: Tensor) -> Tensor:
    """log(1 - sum_v p(v)) of each row, Float[A, K] -> Float[A, 1]: the mass outside the slice.

    The rest is known to the precision of the dtype only, so it is cut from below at its epsilon (2e-16 in
    fp64, 1e-7 in fp32), where it has no gradient.
    """
    inside = logp.logsumexp(-1, keepdim=True).clamp(max=-torch.finfo(logp.dtype).eps)
    return (-torch.expm1(inside)).log()


def close_slice(student: Tensor, teacher: Tensor, tail: Tail) -> tuple[Tensor, Tensor]:
    """Make two distributions of log-probs over a slice of the vocabulary, Float[A, K] each.

    bucket       one more column with all the rest of the mass on each side. The divergence of these coarser
                 distributions never exceeds the one over the whole vocabulary, and the student's total mass
                 outside is trained; where in the rest it goes is free.
    truncate     the teacher is renormalised and has nothing outside; the student stays as it is (a column
                 holds its rest). A true divergence from the truncated teacher: the student is taught to put
                 nothing outside. Reverse KL is infinite here and refused by it.
    renormalise  both are renormalised: the shape inside is matched and the student's mass outside is free.

    With a slice that is the whole vocabulary all three are the plain divergence.
    """
    if tail == "bucket":
        return torch.cat([student, log_rest(student)], -1), torch.cat([teacher, log_rest(teacher)], -1)
    teacher = teacher.log_softmax(-1)
    if tail == "renormalise":
        return student.log_softmax(-1), teacher
    nothing = torch.full_like(teacher[..., :1], -torch.inf)
    return torch.cat([student, log_rest(student)], -1), torch.cat([teacher, nothing], -1)


def vocabulary_slice(out: Outputs, batch: Batch, tail: Tail) -> tuple[Tensor, Tensor]:
    """Log-probs of the policy and of the other model (teacher, reference) at the actions, closed to sum to 1.

    Reads `Outputs.slice_logp` and `Batch.action_streams["slice_logp"]`, Float[A, K]. Without `slice_ids`
    they span the whole vocabulary; the other model's may then be logits too. With them, K ids a row, no id
    twice, a row with fewer candidates padded with log-prob -inf; `tail` says what becomes of the rest.
    """
    student = given(out.slice_logp)
    other = batch.action_streams["slice_logp"].to(student)
    if other.shape != student.shape:
        raise UserError(
            f"slice_logp: {tuple(other.shape)} in the batch but {tuple(student.shape)} from the policy.",
            "Both models need one vocabulary, or the batch needs the `slice_ids` of its log-probs.",
        )
    if "slice_ids" not in batch.action_streams:
        return student, other.log_softmax(-1)
    mass = other.logsumexp(-1)
    if not bool((torch.isfinite(mass) & (mass < 0.05)).all()):
        raise UserError(
            "slice_logp: a row sums to more than 1 or to nothing, so these are not log-probs of a slice.",
            "Subtract the log-sum-exp over the whole vocabulary from the logits before slicing.",
        )
    return close_slice(student, other, tail)


def at_actions(x: Tensor, batch: Batch) -> Tensor:
    """Float[A] at the actions -> Float[T], 0 elsewhere."""
    zeros = torch.zeros(batch.ids.numel(), dtype=x.dtype, device=x.device)
    return zeros.index_put((batch.action.nonzero().squeeze(-1),), x)
