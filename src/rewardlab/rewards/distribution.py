"""Match a target distribution of scores instead of maximising the score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.base import Resolver, Reward, RewardSettings
from rewardlab.rewards.groups import by_group

Floats = NDArray[np.float64]
Method = Literal["energy", "leave_one_out", "max", "cap", "kde", "rank_w1"]


def energy_distance(x: ArrayLike, y: ArrayLike) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of two samples, as their empirical laws; 0 only if these are equal.

    Szekely and Rizzo 2013, "Energy statistics".
    """
    a, b = _floats(x), _floats(y)
    within = float(_mean_gap(a, a).mean() + _mean_gap(b, b).mean())
    return 2 * float(_mean_gap(a, b).mean()) - within


def energy(scores: ArrayLike, target: ArrayLike) -> Floats:
    """r_i = mean_{j != i} |s_i - s_j| - mean_k |s_i - y_k|. Float[N], Float[M] -> Float[N]; N > 1.

    Minus half the derivative of the energy distance in the direction of an answer with the score s_i. Its
    expectation is constant in s_i exactly where the laws agree, so a policy that has arrived is at rest; the
    first term keeps answers apart, so it does not collapse on the way. The mean over the batch is not zero;
    use a baseline, and a scale for the whole batch rather than each group's deviation.
    """
    s = _floats(scores)
    return _mean_gap(s, s) * (len(s) / (len(s) - 1)) - _mean_gap(s, _floats(target))


def leave_one_out(scores: ArrayLike, target: ArrayLike) -> Floats:
    """r_i = (N - 1) / 2 * [ED(scores without i, target) - ED(scores, target)]; N > 1.

    What the answer brings. The factor puts it on the scale of `energy`, of which it is the finite
    difference, whatever N is.
    """
    s, y = _floats(scores), _floats(target)
    n, within = len(s), _mean_gap(s, s) * len(s)
    to_target = _mean_gap(s, y)
    cross = 2 * (to_target.sum() - to_target) / (n - 1) - 2 * to_target.mean()
    gain: Floats = cross - (within.sum() - 2 * within) / (n - 1) ** 2 + within.sum() / n**2
    return gain * (n - 1) / 2


def ablation(scores: ArrayLike, target: ArrayLike, method: Method) -> Floats:
    """What people pay instead, and what comes of it in the same experiment (see the tests).

    max: s; runs to the highest score. cap: min(s, median of y); anything above the median, and usually one
    answer. kde: log density of y under a Gaussian kernel at s (Silverman's width); collapses to the mode.
    rank_w1: -|s_(i) - Q_y((i - 1/2) / N)|, each rank matched with its quantile; the price of a rank is not
    the price of an answer, and with a baseline it can push away from the target.
    """
    s, y = _floats(scores), _floats(target)
    if method == "max":
        return s
    if method == "cap":
        return np.minimum(s, np.median(y))
    if method == "kde":
        width = max(
            0.9 * min(y.std(), (np.quantile(y, 0.75) - np.quantile(y, 0.25)) / 1.34) * len(y) ** -0.2, 1e-3
        )
        z = -0.5 * ((s[:, None] - y) / width) ** 2
        top = z.max(1)
        found: Floats = (
            top + np.log(np.exp(z - top[:, None]).mean(1)) - math.log(width * math.sqrt(2 * math.pi))
        )
        return found
    rank = np.argsort(np.argsort(s, kind="stable"), kind="stable")
    return -np.abs(s - np.quantile(y, (rank + 0.5) / len(s)))


def distribution_rewards(scores: ArrayLike, target: ArrayLike, method: Method) -> Floats:
    """Float[N]: the chosen method; `energy` and `leave_one_out` need two scores."""
    if method == "energy":
        return energy(scores, target)
    return leave_one_out(scores, target) if method == "leave_one_out" else ablation(scores, target, method)


def _floats(x: ArrayLike) -> Floats:
    return np.asarray(x, dtype=np.float64)


def _mean_gap(x: Floats, y: Floats) -> Floats:
    """mean_k |x_i - y_k|, through sorting: O((N + M) log M) and no [N, M] matrix."""
    y = np.sort(y)
    below = np.searchsorted(y, x)
    sums = np.concatenate([[0.0], np.cumsum(y)])
    lower, upper = sums[below], sums[-1] - sums[below]
    found: Floats = (x * below - lower + upper - x * (len(y) - below)) / len(y)
    return found


class DistributionMatch:
    """Pays an answer for bringing the policy's distribution of another reward's scores to a target sample.

    `target` is one sample of scores, or one per class, the class being what the prompt's meta has under
    `class_field`. `scope`: `batch` pools all answers (of a class) scored in one call, `group` takes each
    group by itself (noisier, and biased towards spread within a prompt). So a value depends on the batch
    by design; `parts` hold the raw score and the energy distance of the pool. A pool of one abstains; a
    prompt of an unknown class is an error; where the reward has no value, neither has this.
    """

    def __init__(
        self,
        name: str,
        reward: Reward,
        target: Sequence[float] | Mapping[str, Sequence[float]],
        *,
        method: Method = "energy",
        scope: Literal["batch", "group"] = "batch",
        class_field: str | None = None,
    ) -> None:
        by_class = dict(target) if isinstance(target, Mapping) else {"": target}
        self.target = {str(k): _floats(v) for k, v in by_class.items()}
        if isinstance(target, Mapping) != (class_field is not None):
            raise UserError(
                f"{name}: a target per class and a `class_field` go together.", "Give both, or neither."
            )
        if not self.target or any(v.size == 0 or not np.isfinite(v).all() for v in self.target.values()):
            raise UserError(f"{name}: a target sample is empty or not finite.", "Give the scores to match.")
        self.name, self.reward, self.class_field = name, reward, class_field
        self.method: Method = method
        self.scope = scope

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout."""
        found = self.reward.score(rollouts)
        raw = {i: s.value for i, s in enumerate(found) if s.value is not None}
        pools = by_group(rollouts) if self.scope == "group" else [list(range(len(rollouts)))]
        for pool in pools:
            by_class: dict[str, list[int]] = {}
            for i in pool:
                by_class.setdefault(self._class(rollouts[i]), []).extend([i] if i in raw else [])
            for kind, members in by_class.items():
                if kind not in self.target:
                    for i in members:
                        reason = f"{self.name}: no target for {self.class_field} {kind!r}"
                        found[i] = Score.error(f"{rollouts[i].prompt.place}: {reason}")
                elif len(members) < 2:
                    for i in members:
                        found[i] = Score.abstain(f"{self.name}: one answer has no distribution")
                else:
                    values = [raw[i] for i in members]
                    rewards = distribution_rewards(values, self.target[kind], self.method)
                    distance = energy_distance(values, self.target[kind])
                    for i, value in zip(members, rewards.tolist(), strict=True):
                        parts = {self.name: value, self.reward.name: raw[i], "energy_distance": distance}
                        found[i] = Score(value, parts=parts)
        return found

    def _class(self, rollout: Rollout) -> str:
        return "" if self.class_field is None else str(rollout.prompt.meta.get(self.class_field))


class DistributionSettings(RewardSettings):
    """The distribution of another reward's scores is to become that of a target sample."""

    kind: Literal["distribution"] = "distribution"
    reward: str
    """The reward whose scores are matched."""
    target: list[float] | dict[str, list[float]]
    """The target sample (such as the scores of preferred answers), or one for each class."""
    class_field: str | None = None
    """Meta field of the prompt that names the class."""
    method: Method = "energy"
    """`energy` or `leave_one_out`; `max`, `cap`, `kde` and `rank_w1` are ablations that do not match it."""
    scope: Literal["batch", "group"] = "batch"
    """What is one sample: all answers of a step, or each group."""

    def references(self) -> list[str]:
        """The reward whose scores are matched."""
        return [self.reward]

    def build(self, name: str, resolver: Resolver) -> DistributionMatch:
        """The reward."""
        reward = resolver.reward(self.reward)
        options = self.model_dump(include={"class_field", "method", "scope"})
        return DistributionMatch(name, reward, self.target, **options)
