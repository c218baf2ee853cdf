"""Which preference losses, and their knobs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from rewardlab.core.settings import Settings
from rewardlab.objectives.preference.divergence import Divergence

LossName = Literal[
    "sigmoid",
    "sigmoid_norm",
    "robust",
    "hinge",
    "ipo",
    "exo_pair",
    "discopop",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "aot",
    "aot_unpaired",
    "tdpo",
    "simpo",
    "cpo",
    "orpo",
    "sft",
]

REFERENCE_FREE = frozenset({"simpo", "cpo", "orpo", "sft"})
OF_THE_GAP = frozenset({"sigmoid", "sigmoid_norm", "robust", "hinge", "ipo", "exo_pair", "discopop"})
"""Losses in which the constant that an f-divergence leaves cancels."""
OF_EACH_ANSWER = frozenset({"nca_pair", "bco_pair", "sppo_hard", "apo_zero", "sft"})
"""Losses that are a sum over answers, so that it does not matter who is paired with whom."""
MATCHED = frozenset({"aot", "aot_unpaired"})


def _by_name(value: Any) -> Any:
    return {value: 1.0} if isinstance(value, str) else value


Losses = Annotated[dict[LossName, float], BeforeValidator(_by_name), Field(min_length=1)]


class PreferenceSettings(Settings):
    """Knobs of the preference losses; each is read by the losses its help names."""

    loss: Losses = {"sigmoid": 1.0}
    """One loss by name, or several with weights, as in {sigmoid: 0.8, bco_pair: 0.2, sft: 1.0} (MPO)."""
    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull to the starting policy; lower moves further. SimPO wants 2 to 10; in orpo it is
    the weight of the odds ratio."""
    label_smoothing: float = Field(default=0.0, ge=0, le=0.5)
    """Pulls every label y to y (1 - e) + (1 - y) e (cDPO)."""
    flip_rate: float = Field(default=0.1, ge=0, lt=0.5)
    """robust: the share of labels that are wrong."""
    exo_epsilon: float = Field(default=1e-3, gt=0, lt=0.5)
    """exo_pair: the probability that the target leaves to the worse answer."""
    discopop_tau: float = Field(default=0.05, gt=0, le=1)
    """discopop: how sharply it turns from one loss to the other."""
    ipo_average: bool = True
    """ipo: divide each answer's sum by its number of tokens."""
    simpo_gamma: float = 0.5
    """simpo: the margin by which the chosen answer must win."""
    nll_weight: float = Field(default=1.0, ge=0)
    """cpo, orpo: weight of the chosen answer's own negative log-likelihood."""
    nll_average: bool = True
    """sft, cpo, orpo: divide that likelihood by the number of tokens."""
    bco_momentum: float | None = Field(default=None, ge=0, lt=1)
    """bco_pair: how much of the running mean delta stays from one step to the next; null keeps delta at 0."""
    divergence: Divergence = "reverse_kl"
    """What holds the policy to the reference, for sigmoid, sigmoid_norm, robust, hinge, ipo, exo_pair and
    discopop."""
    divergence_alpha: float = Field(default=0.5, gt=0, lt=1)
    """divergence alpha: near 0 it is the reverse KL, near 1 the forward KL."""
    tail: float = Field(default=1.0, ge=0, le=1)
    """LD-DPO: weight of the longer answer's tokens beyond the shorter one's length."""
    tdpo_alpha: float = Field(default=0.5, ge=0)
    """tdpo, variant 2: how much of the difference of the answers' KLs to the reference comes off the gap."""
    tdpo_variant: Literal[1, 2] = 2
    """tdpo: 1 takes the whole difference off; 2 keeps the chosen answer's KL out of the gradient."""
    likelihood_weighting: bool = False
    """WPO: weigh pairs by how likely the policy is to write them itself."""
    deviation_floor: float | None = Field(default=None, ge=-1, le=1)
    """Diversified DPO: weigh pairs by 1 + max(deviation, this); -0.8 is usual. Needs `deviation` per pair."""

    def knobs(self) -> dict[str, Any]:
        """These fields alone as keywords of `preference`, whatever a subclass adds."""
        return {name: getattr(self, name) for name in PreferenceSettings.model_fields}

    @property
    def needs_reference(self) -> bool:
        """Whether any of the losses reads `logp_ref`."""
        return not set(self.loss) <= REFERENCE_FREE

    @property
    def needs_reference_distribution(self) -> bool:
        """Whether the reference's log-probs over the whole vocabulary are read at every action."""
        return "tdpo" in self.loss

    @property
    def needs_distribution(self) -> bool:
        """Whether the policy's own log-probs over the whole vocabulary are read at every action."""
        return self.needs_reference_distribution or self.likelihood_weighting

    @property
    def needs_whole_step(self) -> bool:
        """Whether `match` must see the whole step before it is split into micro-batches."""
        return bool(set(self.loss) & MATCHED)

    @model_validator(mode="after")
    def _fits_together(self) -> PreferenceSettings:
        names = set(self.loss)
        if self.divergence != "reverse_kl" and names - OF_THE_GAP - {"sft"}:
            wrong = ", ".join(sorted(names - OF_THE_GAP - {"sft"}))
            raise ValueError(f"divergence {self.divergence!r} has no meaning for {wrong}; use reverse_kl")
        if self.tail != 1.0 and names & (REFERENCE_FREE - {"sft"}):
            wrong = ", ".join(sorted(names & (REFERENCE_FREE - {"sft"})))
            raise ValueError(f"tail (LD-DPO) acts on ratios to the reference, which {wrong} do not have")
        if self.tail != 1.0 and "tdpo" in names:
            raise ValueError("tdpo counts every token's KL, so it cannot be mixed with tail (LD-DPO)")
        if "aot_unpaired" in names and names - OF_EACH_ANSWER - {"aot_unpaired"}:
            wrong = ", ".join(sorted(names - OF_EACH_ANSWER - {"aot_unpaired"}))
            raise ValueError(f"aot_unpaired pairs the answers anew, so it cannot be mixed with {wrong}")
        if names & MATCHED and (self.likelihood_weighting or self.deviation_floor is not None):
            raise ValueError(
                "aot and aot_unpaired compare sorted values, where weights of pairs mean nothing"
            )
        return self
