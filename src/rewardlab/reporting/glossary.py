"""What every metric is called, its unit and its meaning, for labels, captions and the glossary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ACRONYMS = frozenset({"sft", "dpo", "ipo", "kto", "ppo", "grpo", "rloo", "rm", "orpo", "simpo"})


@dataclass(frozen=True)
class Metric:
    """One metric as the reader meets it."""

    label: str
    unit: str = ""
    meaning: str = ""
    reference: float | None = None
    """The value that means "no effect", drawn as a line in interval plots."""


METRICS: dict[str, Metric] = {
    "gold": Metric(
        "gold reward", "reward units", "The true quality of an answer. The learner never sees it."
    ),
    "proxy": Metric(
        "proxy reward", "reward units", "The reward that training can see, usually the reward model's score."
    ),
    "reward": Metric(
        "proxy reward", "reward units", "Mean reward of the step's samples, as the learner saw it."
    ),
    "win_rate_vs_sft": Metric(
        "win rate vs SFT",
        "share of prompts",
        "How often the judge prefers this policy's answer to the SFT policy's; ties count half.",
        0.5,
    ),
    "kl": Metric(
        "KL from reference",
        "nats per sequence",
        "How far the policy's distribution over whole answers has moved from the reference policy.",
    ),
    "kl_per_token": Metric("KL per token", "nats per token", "The same divergence, per token of the answer."),
    "entropy": Metric(
        "entropy", "nats per token", "How undecided the policy is at each token; falls as it collapses."
    ),
    "length": Metric("length", "tokens", "Number of tokens in an answer."),
    "opener_rate": Metric(
        "opener rate", "share of answers", "Answers that start with a stock opening phrase."
    ),
    "closer_rate": Metric("closer rate", "share of answers", "Answers that end with a stock closing phrase."),
    "distinct_1": Metric(
        "distinct-1", "share of tokens", "Distinct single tokens over all tokens: diversity."
    ),
    "distinct_2": Metric(
        "distinct-2", "share of pairs", "Distinct pairs of neighbouring tokens over all pairs."
    ),
    "format_valid": Metric("valid format", "share of answers", "Answers that keep the format asked for."),
    "stop_rate": Metric("stopped", "share of answers", "Answers that ended on a stop token."),
    "length_stop_rate": Metric("cut off", "share of answers", "Answers cut by the token limit."),
    "accuracy": Metric(
        "accuracy", "share of pairs", "Held-out pairs whose preferred answer gets the higher score.", 0.5
    ),
    "accuracy_gold": Metric(
        "accuracy against gold", "share of pairs", "The same, with the gold reward's order as the truth.", 0.5
    ),
    "bayes_accuracy": Metric(
        "Bayes ceiling",
        "share of pairs",
        "Accuracy of the best possible judge, given the noise in labels.",
        0.5,
    ),
    "length_baseline_accuracy": Metric(
        "length alone", "share of pairs", "Accuracy of the rule “the longer answer is better”.", 0.5
    ),
    "ece": Metric(
        "ECE",
        "probability",
        "Expected calibration error: mean gap between predicted and observed preference.",
    ),
    "ece_debiased": Metric(
        "ECE, debiased", "probability", "ECE without the upward bias that finite bins give it."
    ),
    "brier": Metric("Brier score", "squared probability", "Mean squared error of the predicted preference."),
    "length_slope": Metric(
        "length slope",
        "SD per log length",
        "Change of the score, in its own standard deviations, per unit of log length, between the two "
        "answers of a pair; times 0.69 for a doubling.",
        0.0,
    ),
    "padding_probe": Metric(
        "padding probe",
        "SD of the reward",
        "Change of the score, in its own standard deviations, when empty sentences are added.",
        0.0,
    ),
    "flip_rate": Metric(
        "flip rate", "share of pairs", "Right preferences that turn wrong when the worse answer is padded."
    ),
    "loss": Metric("loss", "", "The stage's training objective, lower is better; scales differ by stage."),
    "eval_loss": Metric("held-out loss", "", "The same objective on rows that are not trained on."),
    "eval_accuracy": Metric(
        "held-out accuracy", "share of pairs", "Accuracy on pairs that are not trained on."
    ),
    "margin": Metric("margin", "reward units", "Chosen minus rejected score (for DPO: implicit reward)."),
    "chosen_logp": Metric("log-prob of chosen", "nats per sequence", "Log-probability of preferred answers."),
    "rejected_logp": Metric("log-prob of rejected", "nats per sequence", "The same for the other answers."),
    "grad_norm": Metric("gradient norm", "", "Norm of the gradient before clipping."),
}


def metric(name: str) -> Metric:
    """The metric of this name; an unknown one is labelled by its name and has no unit."""
    return METRICS.get(name) or Metric(name.replace("_", " "))


def policy_label(name: str) -> str:
    """A policy's name as shown: known acronyms in capitals, anything else as it is."""
    return name.upper() if name in ACRONYMS else name


def entries(names: Iterable[str]) -> list[Metric]:
    """The glossary's rows for the metrics that a report shows, each label once, in the table's order."""
    shown = set(names)
    rows = [m for key, m in METRICS.items() if key in shown and m.meaning]
    return list({row.label: row for row in reversed(rows)}.values())[::-1]
