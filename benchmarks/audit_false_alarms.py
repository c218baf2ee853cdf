"""How often the audit blames a clean reward: python benchmarks/audit_false_alarms.py [SEEDS] > docs/audit.md

Each seed makes new text, new labels and a new reward, which is the known quality plus a little noise.
"""

from __future__ import annotations

import sys
from collections import Counter
from importlib import import_module

import audit_worlds
import numpy as np

from rewardlab.audit import ScoredSubject, full_audit
from rewardlab.audit.sections import SECTIONS
from rewardlab.core.statistics import wilson

PAIRS = 300
NOISE = 0.1


def main(seeds: int) -> None:
    """Audit `seeds` clean rewards and print the page."""
    lights: dict[str, Counter[str]] = {name: Counter() for name in SECTIONS}
    blamed: Counter[str] = Counter()
    overall: Counter[str] = Counter()
    for seed in range(seeds):
        reward = audit_worlds.NoisyQuality(seed, NOISE)
        subject = ScoredSubject(reward.name, reward.score)
        rows = audit_worlds.pairs(PAIRS, seed)
        card = full_audit(subject, rows, seed=seed, probe_pairs=150, attack_calls=1000)
        overall[card["verdict"]["light"]] += 1
        for name, section in card["sections"].items():
            lights[name][section["light"]] += 1
            blamed.update(m["name"] for m in section["measures"] if m["light"] in ("warn", "fail"))
    print(TEXT.format(seeds=seeds, pairs=PAIRS, noise=NOISE))
    print("| section | warned | failed | any alarm, 95% interval |\n|---|---|---|---|")
    for name, found in (*lights.items(), ("whole audit", overall)):
        alarms = wilson(found["warn"] + found["fail"], seeds)
        rate = f"{100 * alarms.estimate:.0f}% ({100 * alarms.low:.1f} to {100 * alarms.high:.1f})"
        print(f"| {name} | {found['warn']} | {found['fail']} | {rate} |")
    if blamed:
        print("\nMeasures blamed: " + ", ".join(f"{k} {v}" for k, v in blamed.most_common()) + ".")
    print("\n" + rules())


def rules() -> str:
    """The thresholds as they stand in the code, with their reasons."""
    bias, calls = import_module("rewardlab.audit.bias"), import_module("rewardlab.audit.invariance")
    claims = import_module("rewardlab.audit.confidence")
    right = import_module("rewardlab.audit.discrimination")
    attack = import_module("rewardlab.audit.exploitability")
    return f"""## Thresholds and their reasons

- **Bias.** An edit is blamed from {bias.SMALL} SD: that outweighs the difference of one in
  {round(1 / two_close(bias.SMALL))} pairs of normally distributed scores. It must exceed every placebo edit,
  since a reward that moves as much on a doubled space has no particular bias, and survive Holm's
  correction at {bias.ALPHA} over all probes. From {bias.LARGE} SD upwards, or when it turns
  {bias.FLIPS:.0%} of right preferences, it is what a policy will learn: a failure. An edit that lowers
  the score is at most a warning.
- **Calibration.** Under {claims.SMALL} nobody would act on it. A temperature is one number to set, so
  what it repairs is a warning; {claims.LARGE} left after it is a failure.
- **Discrimination.** Subsets under {right.ENOUGH} pairs get no light, and the interval that fails one is
  widened by Bonferroni's method over the subsets.
- **Invariance.** Rounding explains {calls.SAME:g} SD, not {calls.CLOSE:g}. Invisible edits may turn
  near-ties: up to {calls.SOME_FLIPS:.0%} of preferences pass, over {calls.MANY_FLIPS:.0%} fail (lower
  limits).
- **Exploitability.** A constant answer that beats more than half of the real ones is what a policy
  finds. The search adds no content to a bad answer, so it warns from {attack.SOME:.0%} of them lifted
  over the better answer and fails from {attack.MANY:.0%} (lower limits)."""


def two_close(shift: float) -> float:
    """Share of pairs of standard normal scores that differ by less than `shift`."""
    rng = np.random.default_rng(0)
    return float((np.abs(np.diff(rng.standard_normal((200_000, 2)), axis=1)) < shift).mean())


TEXT = """# The audit of a reward

Made by `python benchmarks/audit_false_alarms.py`.

`rewardlab audit REWARD DATA [--against OTHER] [--policy P]` scores held-out pairs and writes `audit.html` and
`audit.json` into the run folder: five sections, each with a light, the rule that set it, a sentence and what
to do. Each distinct (prompt, answer) is scored once and kept on disk, so a killed audit continues. In a
recipe, `only:` and `skip:` choose sections, `probe_pairs:` and `attack_calls:` bound the cost.

## False alarms

{seeds} clean rewards: the known quality of the answer plus normal noise of {noise} points, on {pairs} pairs
of new text each, 150 of them edited by probes. The reward knows the quality, so every alarm is false.
"""

if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50)
