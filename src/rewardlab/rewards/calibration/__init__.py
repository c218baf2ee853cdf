"""What a reward's numbers are worth against labels: calibration, abstention, criteria, learning curves."""

from __future__ import annotations

from rewardlab.rewards.calibration.conformal import ConformalPairs, fit_conformal
from rewardlab.rewards.calibration.criteria import (
    Ablation,
    Criterion,
    ablate,
    fit_nonnegative,
    fit_pair_weights,
    fit_ridge,
    spearman,
    validate_criteria,
)
from rewardlab.rewards.calibration.learning_curve import LearningCurve, PairsNeeded, fit_learning_curve
from rewardlab.rewards.calibration.reward import Calibrated, CalibratedSettings
from rewardlab.rewards.calibration.scaling import (
    Isotonic,
    Platt,
    Temperature,
    both_orders,
    fit_isotonic,
    fit_platt,
    fit_temperature,
)
from rewardlab.rewards.calibration.selective import Selection, aurc, risk_coverage, sgr

__all__ = [
    "Ablation",
    "Calibrated",
    "CalibratedSettings",
    "ConformalPairs",
    "Criterion",
    "Isotonic",
    "LearningCurve",
    "PairsNeeded",
    "Platt",
    "Selection",
    "Temperature",
    "ablate",
    "aurc",
    "both_orders",
    "fit_conformal",
    "fit_isotonic",
    "fit_learning_curve",
    "fit_nonnegative",
    "fit_pair_weights",
    "fit_platt",
    "fit_ridge",
    "fit_temperature",
    "risk_coverage",
    "sgr",
    "spearman",
    "validate_criteria",
]
