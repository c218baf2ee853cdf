"""Where a step of reward modelling spends its time, beside what this machine could do at best.

python benchmarks/reward_profile.py [--data FOLDER]: a table as Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from checkpoints import checkpoint, gsm8k, job
from scaling import peak
from torch import nn

from rewardlab.core.batch import Batch
from rewardlab.core.types import Example, Message
from rewardlab.data.rendering import render_example
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.models.layouts import LAYOUTS
from rewardlab.models.loading import Model, ModelSettings, load_reward_model
from rewardlab.objectives.reduction import reduce
from rewardlab.objectives.reward import bradley_terry
from rewardlab.training.pairs import PairRow, pack_pairs

PAIRS, WARM, STEPS = 8, 3, 12
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("flash_attention",),
    "optimiser": ("adamw",),
}
REST = "element-wise, copies, sums"


def batches(model: Model, data: Path) -> list[Batch]:
    """The rows of the benchmark's mode `reward`."""
    made = []
    for row in job("reward", gsm8k(data), PAIRS * (WARM + STEPS)):

        def answer(name: str, row: dict[str, list[dict[str, str]]] = row) -> Example:
            return Example(tuple(Message(t["role"], t["content"]) for t in row["prompt"] + row[name]))

        chosen, rejected = (
            render_example(model.tokenizer, answer(name)).sequence for name in ("chosen", "rejected")
        )
        made.append(PairRow(chosen, rejected))
    return [pack_pairs(made[i : i + PAIRS]) for i in range(0, len(made) - PAIRS, PAIRS)][: WARM + STEPS]


def products(engine: Engine, batch: Batch) -> float:
    """Operations of the layers' products, forward and backward: shared prompts once, and the last layer's
    output and MLP products only at the tokens that are scored."""
    base = engine.model.hf.base_model
    layers = [sum(m.weight.numel() for m in x.modules() if isinstance(m, nn.Linear)) for x in base.layers]
    attention = base.layers[-1].self_attn
    early = sum(m.weight.numel() for m in (attention.q_proj, attention.k_proj, attention.v_proj))
    tokens = sum(LAYOUTS[engine.layout(m)](m).input_ids.numel() for m in engine.microbatches(batch))
    return 6.0 * (tokens * (sum(layers[:-1]) + early) + batch.size * (layers[-1] - early))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data" / "math")
    parser.add_argument("--precision", default="bf16")
    a = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint("4m", "4k", gsm8k(a.data), Path(folder))
        model = load_reward_model(ModelSettings(path=str(path / "reward")))
    engine = Engine(model, EngineSettings(precision=a.precision))
    optimiser = torch.optim.AdamW(model.net.parameters(), lr=1e-4, fused=True)

    def step(batch: Batch) -> None:
        counts = batch.counts()
        for micro in engine.microbatches(batch):
            reduce(bradley_terry(engine.scores(micro), micro, centring=0.0), counts).backward()
        torch.nn.utils.clip_grad_norm_(model.net.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    rows = batches(model, a.data)
    for batch in rows[:WARM]:
        step(batch)
    walls = []
    for batch in rows[WARM:]:
        start = time.perf_counter()
        step(batch)
        walls.append(time.perf_counter() - start)
    with torch.profiler.profile() as profiler:
        for batch in rows[WARM:]:
            step(batch)
    shares = dict.fromkeys([*KINDS, REST], 0.0)
    for event in profiler.key_averages():
        kind = next((k for k, names in KINDS.items() if any(n in event.key.lower() for n in names)), REST)
        shares[kind] += event.self_cpu_time_total / 1e6 / STEPS
    best = peak(torch.bfloat16 if a.precision == "bf16" else torch.float32)
    wall, work = statistics.mean(walls), statistics.mean(products(engine, b) for b in rows[WARM:])
    print(f"| part of a step ({a.precision}) | ms |\n|---|---:|")
    for kind, spent in shares.items():
        print(f"| {kind} (profiled) | {1e3 * spent:.0f} |")
    print(f"| whole step (not profiled) | {1e3 * wall:.0f} |")
    print(
        f"| its products alone at this machine's best ({best / 1e9:.0f} GFLOPS) | {1e3 * work / best:.0f} |"
    )


if __name__ == "__main__":
    main()
