"""Cost of a forward and backward pass per token, beside this machine's own matrix-product peak.

python benchmarks/scaling.py: tables over batch, length, vocabulary and group size as Markdown.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rewardlab.core.batch import Batch
from rewardlab.core.types import Sequence
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.models.loading import ModelSettings, load_policy
from rewardlab.models.scratch import ScratchSettings, make

REPEATS = 5
SIZE = {"hidden_size": 256, "layers": 4, "heads": 4, "intermediate_size": 688}


def seconds(work: Callable[[], object]) -> float:
    """Median of a few runs after one that is not counted."""
    work()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def peak(dtype: torch.dtype) -> float:
    """Best of several matrix products, operations per second."""
    best = 0.0
    for m, n, k in ((2048, 256, 256), (2048, 1024, 256), (2048, 2048, 2048)):
        a, b = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
        best = max(best, 2 * m * n * k / seconds(lambda a=a, b=b: a @ b.T))
    return best


def batch(sequences: int, prompt: int, answer: int, vocabulary: int, *, group: int = 1) -> Batch:
    """Random ids; `group` sequences share a prompt."""
    g = torch.Generator().manual_seed(0)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, vocabulary, (n,), generator=g).tolist())

    rows, groups = [], []
    for number in range(sequences // group):
        start = ids(prompt)
        for _ in range(group):
            rows.append(Sequence(start + ids(answer), (False,) * prompt + (True,) * answer))
            groups.append(number)
    return Batch.pack(rows, group=groups)


def step(engine: Engine, b: Batch) -> Callable[[], None]:
    """A forward and backward pass over the batch."""

    def work() -> None:
        for micro in engine.microbatches(b):
            out = engine.logprobs(micro)
            assert out.logp is not None
            out.logp.sum().backward()

    return work


def operations(engine: Engine, b: Batch) -> float:
    """Six per weight and token in the layers, six per head weight and action; attention left out."""
    hf = engine.model.hf
    head = hf.get_output_embeddings().weight.numel()
    layers = sum(p.numel() for p in hf.parameters()) - head
    return 6.0 * (layers * b.ids.numel() + head * int(b.action.sum()))


def main() -> None:
    torch.set_num_threads(2)
    peaks = {"fp32": peak(torch.float32), "bf16": peak(torch.bfloat16)}
    print(
        "Peak of a matrix product: " + ", ".join(f"{k} {v / 1e9:.0f} GFLOPS" for k, v in peaks.items()), "\n"
    )
    print(
        "| vocabulary | sequences | prompt | answer | group | precision | us per token | share of the peak |"
    )
    print("|---|---|---|---|---|---|---|---|")
    shapes = [(n, 64, 128, 1) for n in (1, 4, 16)] + [(4, p, 64, 1) for p in (64, 256, 1024)]
    shapes += [(16, 256, 64, g) for g in (2, 4, 8, 16)]
    with tempfile.TemporaryDirectory() as folder:
        for vocabulary in (4096, 32000):
            # A tokenizer of this size needs this much text to be learnt from.
            texts = [" ".join(f"{i:x}{j:x}" for j in range(40)) for i in range(vocabulary // 8)]
            path = Path(folder) / str(vocabulary)
            make(ScratchSettings(vocabulary=vocabulary, context=2048, **SIZE), texts, path, seed=0)
            for precision in ("fp32", "bf16"):
                model = load_policy(ModelSettings(path=str(path)))
                engine = Engine(model, EngineSettings(precision=precision))
                size = model.hf.config.vocab_size
                for n, prompt, answer, group in shapes if vocabulary == 4096 else shapes[2:3] + shapes[-2:-1]:
                    b = batch(n, prompt, answer, size, group=group)
                    t = seconds(step(engine, b))
                    share = operations(engine, b) / t / peaks[precision]
                    print(
                        f"| {size} | {n} | {prompt} | {answer} | {group} | {precision} "
                        f"| {t / b.ids.numel() * 1e6:.0f} | {100 * share:.0f}% |"
                    )


if __name__ == "__main__":
    main()
