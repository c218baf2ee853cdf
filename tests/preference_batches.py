"""Random batches of pairs and the list of preference settings that the tests of preferences go through."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.types import Sequence
from rewardlab.objectives.preference import PreferenceSettings, match

CASES: dict[str, PreferenceSettings] = {
    name: PreferenceSettings.model_validate({"beta": 0.3, **knobs})
    for name, knobs in {
        "sigmoid": {},
        "smoothed": {"label_smoothing": 0.1},
        "sigmoid_norm": {"loss": "sigmoid_norm", "beta": 5.0},
        "robust": {"loss": "robust", "flip_rate": 0.2},
        "hinge": {"loss": "hinge"},
        "ipo": {"loss": "ipo"},
        "ipo_sum": {"loss": "ipo", "ipo_average": False},
        "exo_pair": {"loss": "exo_pair"},
        "exo_pair_wide": {"loss": "exo_pair", "exo_epsilon": 0.1},
        "discopop": {"loss": "discopop"},
        "discopop_tau_1": {"loss": "discopop", "discopop_tau": 1.0},
        "nca_pair": {"loss": "nca_pair"},
        "bco_pair": {"loss": "bco_pair"},
        "sppo_hard": {"loss": "sppo_hard"},
        "apo_zero": {"loss": "apo_zero"},
        "apo_down": {"loss": "apo_down"},
        "aot": {"loss": "aot"},
        "aot_unpaired": {"loss": "aot_unpaired"},
        "simpo": {"loss": "simpo", "beta": 2.0},
        "simpo_gamma": {"loss": "simpo", "beta": 2.0, "simpo_gamma": 1.5},
        "cpo": {"loss": "cpo"},
        "cpo_alone": {"loss": "cpo", "nll_weight": 0.0},
        "orpo": {"loss": "orpo"},
        "orpo_sum": {"loss": "orpo", "nll_average": False, "nll_weight": 0.5},
        "sft": {"loss": "sft"},
        "forward_kl": {"divergence": "forward_kl"},
        "js": {"divergence": "js", "loss": "hinge"},
        "alpha": {"divergence": "alpha", "loss": "ipo"},
        "alpha_high": {"divergence": "alpha", "divergence_alpha": 0.9},
        "ld": {"tail": 0.4},
        "ld_cut": {"tail": 0.0, "loss": "sppo_hard"},
        "ld_aot": {"tail": 0.4, "loss": "aot"},
        "wpo": {"likelihood_weighting": True},
        "deviation": {"deviation_floor": -0.8},
        "mpo": {"loss": {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}},
        "aot_sft": {"loss": {"aot_unpaired": 1.0, "sft": 0.5}},
    }.items()
}
BCO_DELTA = 0.4


def random_pairs(
    seed: int, pairs: int = 4, *, plain: bool = False, dtype: torch.dtype = torch.float64
) -> tuple[Batch, Tensor]:
    """Pairs with answers of 1 to 6 tokens, observations inside some, and log-probs Float[T] to go with them.

    `plain` leaves out labels, weights and margins.
    """
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    rows = []
    for _ in range(2 * pairs):
        action = [False] * number(1, 3) + [True]
        for _ in range(number(0, 5)):
            action.append(number(0, 4) > 0)
        rows.append(Sequence(tuple(range(len(action))), tuple(action)))
    batch = Batch.pack(rows)
    tokens = batch.ids.numel()

    def noise(n: int) -> Tensor:
        return torch.rand(n, generator=generator, dtype=torch.float64).to(dtype)

    logp = -2 * noise(tokens) - 0.05
    streams = {
        "label": noise(pairs),
        "weight": 0.5 + noise(pairs),
        "margin": noise(pairs) - 0.5,
        "deviation": 2 * noise(pairs) - 1,
    }
    batch = replace(
        batch.with_streams(logp_ref=-2 * noise(tokens) - 0.05, log_collision=-noise(tokens)),
        pairs=torch.arange(2 * pairs).view(-1, 2),
        pair_streams={"deviation": streams["deviation"]} if plain else streams,
    )
    return batch, logp * batch.action


def ready(
    settings: PreferenceSettings, seed: int, pairs: int = 4, *, plain: bool = False
) -> tuple[Batch, Tensor]:
    """The same, ranked where the loss needs it; unpaired transport gets rows without labels."""
    batch, logp = random_pairs(seed, pairs, plain=plain or "aot_unpaired" in settings.loss)
    return (
        match(batch, logp, loss=settings.loss, tail=settings.tail) if settings.needs_whole_step else batch
    ), logp


def outputs(logp: Tensor) -> Outputs:
    """Engine outputs that hold these log-probs."""
    return Outputs(logp=logp)
