"""Preference losses on policy log-probs."""

from __future__ import annotations

from rewardlab.core.batch import Batch, Outputs, given, sum_by_sequence
from rewardlab.objectives.reduction import Term, Terms, statistic
from rewardlab.objectives.reward import pair_label, pair_weight, soft_logistic


def dpo(out: Outputs, batch: Batch, *, beta: float, label_smoothing: float = 0.0) -> Terms:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290), sigmoid form.

    h_p = [log pi(c) - log ref(c)] - [log pi(r) - log ref(r)], log-probs summed over action tokens
    loss_p = -y log sigmoid(beta h_p) - (1 - y) log sigmoid(-beta h_p), unit pair

    y is the pair's soft label, pulled to 1 - y by `label_smoothing` (conservative DPO). Needs the stream
    `logp_ref`. `chosen_logp` and `rejected_logp` are changes from the reference: both falling is the
    known displacement of DPO and not a bug of the run.
    """
    weight = batch.weight
    change = sum_by_sequence((given(out.logp) - batch.streams["logp_ref"]) * weight, batch)  # [N]
    chosen, rejected = change[batch.pairs[:, 0]], change[batch.pairs[:, 1]]
    gap = chosen - rejected
    label = pair_label(batch, gap)
    label = label * (1 - label_smoothing) + (1 - label) * label_smoothing
    loss = pair_weight(batch, gap) * soft_logistic(beta * gap, label)
    return {
        "dpo": Term(loss.sum(), "pair"),
        "accuracy": statistic((gap > 0).float().sum() + 0.5 * (gap == 0).float().sum(), "pair"),
        "margin": statistic(beta * gap.sum(), "pair"),
        "chosen_logp": statistic(chosen.sum(), "pair"),
        "rejected_logp": statistic(rejected.sum(), "pair"),
    }
