"""Do filters of preference pairs help against flipped labels? python benchmarks/filters.py docs

Writes filters.json (every seed's figures) and filters.md (the page) into the folder; with `--page`, only the
page again from the figures that are there. The unit of inference is the seed: a world, its training and its
test pairs. Every arm trains the same learner with the same settings, on the pairs that its filter keeps, and
is compared with no filter within the seed; accuracy is against the gold reward, which no arm has seen.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from filters_page import page
from hashed_pairs import difference_matrix, fit_weights, learner
from numpy.typing import NDArray
from scipy import sparse, special

from rewardlab.core.types import Pair
from rewardlab.data import filters
from rewardlab.data.flywheel import flywheel
from rewardlab.data.label_noise import flip_rate
from rewardlab.records.atomic import sha256, write_text
from rewardlab.worlds.advice import AdviceSettings, AdviceWorld, LabellerSettings

SEEDS = (1, 2, 3, 4, 5)
FLIPS = (0.0, 0.1, 0.2, 0.3)
PENALTIES = {"weak": 0.01, "strong": 0.1}
TRAIN, VALIDATION, TEST = 2000, 1000, 3000
FRACTION, FOLDS, MEMBERS, ROUNDS = 0.7, 5, 3, 4
Masks = dict[str, NDArray[np.bool_]]


def main(folder: Path, *, page_only: bool) -> None:
    """Run the study, or read it, and write the page."""
    artefact = folder / "filters.json"
    if not page_only:
        start = time.process_time()
        rows = [row for seed in SEEDS for row in one_seed(seed)]
        settings = {
            "seeds": SEEDS,
            "flips": FLIPS,
            "penalties": PENALTIES,
            "train": TRAIN,
            "validation": VALIDATION,
            "test": TEST,
            "fraction": FRACTION,
            "folds": FOLDS,
            "members": MEMBERS,
            "rounds": ROUNDS,
        }
        found = {"settings": settings, "cpu_seconds": round(time.process_time() - start), "rows": rows}
        write_text(artefact, json.dumps(found, indent=1) + "\n")
    write_text(folder / "filters.md", page(json.loads(artefact.read_text()), sha256(artefact)))


def pairs_of(seed: int, flip: float) -> tuple[list[Pair], list[Pair]]:
    """Training and validation pairs together, and test pairs, without ties in gold.

    The labeller sees gold alone; a flip is the only error. Every flip rate labels the same answers.
    """
    taste = LabellerSettings(length_bias=0, opener_bias=0, noise=0, flip=flip)
    world = AdviceWorld(AdviceSettings(seed=seed, labeller=taste))
    drawn = []
    for n, stream in ((TRAIN + VALIDATION, 1), (TEST, 2)):
        pairs = world.pairs(n + n // 3, split="train", seed=stream)
        # Sums of the same parts in another order differ in their last bits: those are ties too.
        drawn.append([p for p in pairs if abs(p.meta["gold_chosen"] - p.meta["gold_rejected"]) > 1e-9][:n])
        assert len(drawn[-1]) == n
    return drawn[0], drawn[1]


def one_seed(seed: int) -> list[dict[str, Any]]:
    """One row per flip rate, penalty and arm."""
    clean, test = pairs_of(seed, 0.0)
    x, x_test = difference_matrix(clean), difference_matrix(test)
    aspects = [len(p.meta["aspects"]) for p in clean[:TRAIN]]
    rows = []
    for flip in FLIPS:
        labelled, _ = pairs_of(seed, flip)
        flipped = np.array([p.meta["gold_chosen"] < p.meta["gold_rejected"] for p in labelled])
        signs = np.where(flipped, -1.0, 1.0)
        for strength, penalty in PENALTIES.items():
            signed = sparse.diags(signs[:TRAIN]) @ x[:TRAIN]

            def accuracy(kept: NDArray[np.bool_], signed: Any = signed, penalty: float = penalty) -> float:
                margin = x_test @ fit_weights(signed[kept], penalty)
                return float(((margin > 0) + 0.5 * (margin == 0)).mean())

            fit = learner(x, signs, penalty)
            masks, estimates = arms(fit, flipped[:TRAIN], aspects, seed)
            gold = {arm: accuracy(kept) for arm, kept in masks.items()}
            wheel = flywheel(
                fit,
                filters.fold_of(TRAIN, FOLDS, seed=seed),
                np.arange(TRAIN, TRAIN + VALIDATION),
                lambda margin: filters.keep_above(margin, 0.0),
                max_rounds=ROUNDS,
            )
            first = wheel.rounds[1].gain
            assert first is not None
            masks["flywheel"] = wheel.rounds[wheel.best].kept
            gold["flywheel"] = accuracy(masks["flywheel"])
            rows.append(
                {
                    "seed": seed,
                    "flip": flip,
                    "penalty": strength,
                    "accuracy": gold,
                    "kept": {arm: float(kept.mean()) for arm, kept in masks.items()},
                    "flipped_among_kept": {a: float(flipped[:TRAIN][k].mean()) for a, k in masks.items()},
                    "flip_estimate": estimates,
                    "true_flip_rate": float(flipped[:TRAIN].mean()),
                    "flywheel_round": wheel.best,
                    "flywheel_first_gain": first.as_dict(),
                }
            )
            print(f"seed {seed}, flip {flip}, {strength}: {gold['none']:.3f}", file=sys.stderr, flush=True)
    return rows


def arms(
    fit: filters.Fit, flipped: NDArray[np.bool_], aspects: list[int], seed: int
) -> tuple[Masks, dict[str, float]]:
    """What every arm keeps, and the two estimates of the flip rate."""
    every: filters.Indices = np.arange(TRAIN)
    fold = filters.fold_of(TRAIN, FOLDS, seed=seed)
    margins = {"naive": fit(every)(every), "cross-fitted": filters.cross_fitted(fit, fold)}
    ensembles = {
        "naive": [bagged(fit, seed, m)(every)(every) for m in range(MEMBERS)],
        "cross-fitted": [filters.cross_fitted(bagged(fit, seed, m), fold) for m in range(MEMBERS)],
    }
    masks: Masks = {"none": np.ones(TRAIN, np.bool_), "oracle": ~flipped}
    noise = filters.random_quality(TRAIN, seed=seed)
    masks["random"] = filters.keep_fraction(noise, FRACTION)
    estimates = {}
    for how, margin in margins.items():
        guess = flip_rate(special.expit(margin))
        estimates[how] = guess.rate
        kept = {
            "abs margin": filters.keep_fraction(filters.confidence(margin), FRACTION),
            "signed margin": filters.keep_fraction(filters.signed_margin(margin), FRACTION),
            "signed margin in strata": filters.keep_in_strata(margin, aspects, FRACTION),
            "small loss": filters.keep_above(filters.small_loss(margin), -np.log(2)),
            "disagreement": filters.keep_fraction(filters.agreement(ensembles[how]), FRACTION),
            "confident learning": ~guess.suspect,
        }
        masks |= {f"{name}, {how}": mask for name, mask in kept.items()}
    matched = float(masks["small loss, cross-fitted"].mean())
    masks["random, as many as small loss"] = filters.keep_fraction(noise, matched)
    return masks, estimates


def bagged(fit: filters.Fit, seed: int, member: int) -> filters.Fit:
    """The learner on a bootstrap resample of the rows that it is given."""

    def resampled(rows: filters.Indices) -> Any:
        rng = np.random.default_rng((seed, member, rows.size))
        return fit(rng.choice(rows, rows.size))

    return resampled


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--page"]
    if len(arguments) != 1:
        sys.exit("usage: python benchmarks/filters.py FOLDER [--page]")
    main(Path(arguments[0]), page_only="--page" in sys.argv)
