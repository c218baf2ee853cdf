"""From one reward per answer to a direction for the whole answer.

All take `reward` Float[N], `group` Long[N] and `valid` Bool[N] and give Float[N]; the advantage of an
answer stands at each of its actions. Shared rules: groups may have unequal sizes; answers that are not
`valid` (score abstained or failed) are in no statistic and get 0; a group of one valid answer has nothing
to compare with and gets 0 (verl lets it keep its raw reward); equal rewards get exactly 0, never NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rewardlab.core.errors import UserError
from rewardlab.objectives.advantage.groups import Groups, batch_normalised


def group_relative(
    reward: Tensor, group: Tensor, valid: Tensor | None = None, *, scale_by_std: bool = False
) -> Tensor:
    """Reward minus its group's mean (GRPO, Shao et al. 2024, arXiv 2402.03300). Float[N] -> Float[N].

    A_i = r_i - mean(r of i's group), and with `scale_by_std` divided by the group's standard deviation
    (n - 1 in the denominator) plus 1e-6. Without scaling it is Dr. GRPO's form (arXiv 2503.20783), which
    does not weigh easy and hard prompts by their spread. TRL adds 1e-4 in place of 1e-6.
    """
    groups = Groups(group, valid)
    centred = groups.centred(reward)
    return centred / (groups.std(centred)[groups.number] + 1e-6) if scale_by_std else centred


def rloo(reward: Tensor, group: Tensor, valid: Tensor | None = None) -> Tensor:
    """Reward minus the mean of the *others* (RLOO, Ahmadian et al. 2024, arXiv 2402.14740).

    A_i = r_i - mean(r_j, j != i) = n / (n - 1) (r_i - mean r). The baseline does not depend on the answer
    that it is subtracted from, so the gradient is unbiased.
    """
    groups = Groups(group, valid)
    n = groups.size(reward)
    return groups.centred(reward) * (n / (n - 1).clamp(min=1))[groups.number]


def reinforce_pp(
    reward: Tensor, group: Tensor, valid: Tensor | None = None, *, length: Tensor | None = None
) -> Tensor:
    """Normalised over the whole batch (REINFORCE++, Hu et al. 2025, arXiv 2501.03262).

    A_i = (r_i - mean) / (std + 1e-8), mean and std over all action tokens of the step: an answer counts
    `length` times (Float[N], its number of actions; None: once each). `group` is not read. A KL that
    belongs in the reward is subtracted before. One easy prompt's answers all get pushed up.
    """
    return batch_normalised(reward, _weight(reward, valid, length))


def reinforce_pp_baseline(
    reward: Tensor, group: Tensor, valid: Tensor | None = None, *, length: Tensor | None = None
) -> Tensor:
    """Centred by group, then normalised over the batch (REINFORCE++-baseline, arXiv 2501.03262).

    A = normalise(r_i - mean(r of i's group)), over tokens as in `reinforce_pp`. The scale is one number
    for the step, so it does not favour prompts with a small spread as GRPO's std does. Answers of
    all-equal groups are exactly 0 before the normalisation and may get a small value after it, as the
    mean over tokens of the centred rewards need not be 0 where lengths differ; they are kept at 0 here.
    TRL's `scale_rewards=batch` divides by the standard deviation of the raw rewards over answers.
    """
    groups = Groups(group, valid)
    centred = groups.centred(reward)
    normal = batch_normalised(centred, _weight(reward, valid, length))
    return torch.where(groups.differs(reward), normal, torch.zeros_like(normal))


def opo(reward: Tensor, group: Tensor, valid: Tensor | None = None, *, length: Tensor) -> Tensor:
    """Minus the length-weighted mean, the baseline of least variance (OPO, Hao et al. 2025, 2505.23585).

    A_i = r_i - sum_j l_j r_j / sum_j l_j over the group, l = number of actions, Float[N]. Optimal where
    the squared score norm of an answer grows with its length.
    """
    groups = Groups(group, valid)
    baseline = groups.sum(length.to(reward) * reward) / groups.sum(length.to(reward)).clamp(min=1)
    return groups.centred(reward, baseline)


def remax(reward: Tensor, greedy: Tensor, valid: Tensor | None = None) -> Tensor:
    """Minus the reward of the greedy answer to the same prompt (ReMax, Li et al. 2023, arXiv 2310.10505).

    A_i = r_i - greedy_i, both Float[N]. Needs one more answer per prompt, and no group. Not centred: an
    answer as good as the greedy one gets 0.
    """
    a = reward - greedy
    return a if valid is None else torch.where(valid, a, torch.zeros_like(a))


def pass_at_k(reward: Tensor, group: Tensor, valid: Tensor | None = None, *, k: int = 4) -> Tensor:
    """The analytic advantage of maximising pass@k (Chen et al. 2025, arXiv 2508.10751); rewards 0 or 1.

    Of n answers c are right. m = 1 - C(n-c, k) / C(n, k), the mean of max(r) over k-subsets, and
    s = sqrt(m (1 - m)) its standard deviation
    right:  (1 - m) / s        wrong:  (1 - m - C(n-c-1, k-1) / C(n-1, k-1)) / s

    which is the mean of (max(r of S) - m) / s over the k-subsets S that hold the answer. 0 where s = 0 (no
    answer right, or so many that each subset has one), and in groups with fewer than k valid answers.
    With k = 1 it is GRPO with the population std. Rewards other than 0 and 1 raise UserError. verl's
    `grpo_passk` is another method: best minus second best, given to the best alone (arXiv 2503.19595).
    """
    groups = Groups(group, valid)
    some = reward[groups.valid]
    if bool(((some != 0) & (some != 1)).any()):
        raise UserError(
            "advantage pass_at_k: a reward is neither 0 nor 1.",
            "Use a reward that says right or wrong, or another advantage.",
        )
    if k < 1:
        raise UserError(f"advantage pass_at_k: k is {k}.", "Use a k of at least 1.")
    n = groups.size(reward.double())
    wrong = n - groups.sum(reward.double())
    none = _share_of_subsets(wrong, n, k)  # no right answer in a k-subset
    spread = (none * (1 - none)).sqrt()
    companions = _share_of_subsets(wrong - 1, n - 1, k - 1)  # the k - 1 others all wrong too
    usable = (spread > 0) & (n >= k)
    divisor = torch.where(usable, spread, torch.ones_like(spread))
    right = torch.where(usable, none / divisor, torch.zeros_like(n))
    other = torch.where(usable, (none - companions) / divisor, torch.zeros_like(n))
    found = torch.where(reward == 1, right[groups.number], other[groups.number])
    return groups.masked(found.to(reward))


def max_rl(reward: Tensor, group: Tensor, valid: Tensor | None = None) -> Tensor:
    """Centred reward over the group's mean (MaxRL, Tajwar et al. 2026, arXiv 2602.02710).

    A_i = (r_i - mean r) / mean r, and 0 where no reward is above 0. Rewards must not be negative. For 0/1
    rewards it averages the score over the right answers only, an estimate of the gradient of
    log p(right) cut at the group's size; hard prompts weigh more than with GRPO.
    """
    groups = Groups(group, valid)
    if bool((reward[groups.valid] < 0).any()):
        raise UserError("advantage max_rl: a reward is negative.", "Shift the rewards to start at 0.")
    mean = groups.mean(reward)
    positive = mean > 0
    scale = torch.where(positive, 1 / torch.where(positive, mean, torch.ones_like(mean)), mean * 0)
    return groups.centred(reward) * scale[groups.number]


def gpg(reward: Tensor, group: Tensor, valid: Tensor | None = None) -> Tensor:
    """Centred rewards, made up for prompts that teach nothing (GPG, Chu et al. 2025, arXiv 2504.02546).

    A_i = alpha (r_i - mean r), alpha = groups / groups whose rewards are not all equal. The mean gradient
    over the step keeps its size when most prompts are solved or hopeless. Use with the loss `gpg`.
    Groups without a valid answer are not counted. verl's alpha is answers / answers with a reward not 0.
    """
    groups = Groups(group, valid)
    alive = groups.sum(groups.differs(reward).to(reward)) > 0
    scored = groups.size(reward) > 0
    alpha = scored.sum().to(reward) / alive.sum().clamp(min=1)
    return groups.centred(reward) * alpha


def _weight(reward: Tensor, valid: Tensor | None, length: Tensor | None) -> Tensor:
    weight = torch.ones_like(reward) if length is None else length.to(reward)
    return weight if valid is None else weight * valid


def _share_of_subsets(among: Tensor, total: Tensor, k: int) -> Tensor:
    """C(among, k) / C(total, k) elementwise; 0 where among < k. A product, so nothing overflows."""
    share = torch.ones_like(total)
    for i in range(k):
        share = share * ((among - i).clamp(min=0) / (total - i).clamp(min=1))
    return share
