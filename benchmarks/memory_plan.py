"""The memory plan beside what a step really takes: python benchmarks/memory_plan.py

Each case is a process of its own on the CPU: it loads libraries, takes a step with a throw-away network,
builds the network, notes its resident memory, takes two optimiser steps of three micro-batches of supervised
fine-tuning, and reads how far the resident high-water mark rose. `predicted` is the plan without the weights,
which are there when the counting begins. Measured twice: with every large block mapped by itself and given
back when freed, which is what the tensors hold; and as training runs, with freed blocks kept on the heap.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SIZES = {
    "embedded": None,
    "11M": {"hidden_size": 256, "num_hidden_layers": 8, "intermediate_size": 704, "vocab_size": 4096},
    "wide": {"hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 352, "vocab_size": 32768},
}
"""`wide` has more logits than are kept."""
CASES: list[dict[str, Any]] = [
    {"size": size, "tokens": tokens, "checkpointing": on, "state": state, "precision": precision}
    for size, tokens, on, state, precision in (
        ("embedded", 1536, False, "fp32", "fp32"),
        ("embedded", 1536, True, "fp32", "fp32"),
        ("embedded", 6144, False, "fp32", "fp32"),
        ("embedded", 6144, True, "fp32", "fp32"),
        ("11M", 1536, False, "fp32", "fp32"),
        ("11M", 1536, True, "fp32", "fp32"),
        ("11M", 1536, True, "8bit", "fp32"),
        ("11M", 1536, False, "fp32", "bf16"),
        ("wide", 1024, False, "fp32", "fp32"),
    )
]
LENGTH = 256


def measure(case: dict[str, Any]) -> dict[str, float]:
    """Bytes predicted and measured of one case, in this process."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import rewardlab.models.engine
    from rewardlab.core.types import Sequence
    from rewardlab.models.engine import Engine, EngineSettings
    from rewardlab.models.loading import Model, ModelSettings, load_policy
    from rewardlab.models.memory import Network, plan_memory
    from rewardlab.records.run import Run
    from rewardlab.training.algorithms.sft import SFT
    from rewardlab.training.loop import LoopSettings, train
    from rewardlab.training.optimiser import OptimiserSettings

    if case["mapped"]:
        rewardlab.models.engine.keep_freed_memory = lambda: False
    embedded = load_policy(ModelSettings(path="embedded:advice-base"))
    made = OptimiserSettings(state=case["state"])

    def engine(config: dict[str, int] | None, tokens: int) -> Engine:
        model = embedded
        if config is not None:
            whole = LlamaConfig(**config, num_attention_heads=8, num_key_value_heads=4)
            model = Model(LlamaForCausalLM(whole), embedded.tokenizer, "measured")
        return Engine(
            model,
            EngineSettings(
                tokens_per_microbatch=tokens,
                gradient_checkpointing=case["checkpointing"],
                precision=case["precision"],
            ),
        )

    def steps(engine: Engine, tokens: int, length: int) -> None:
        ids = torch.randint(0, 900, (3 * tokens // length, length)).tolist()
        rows = [Sequence(tuple(r), (False, *(True,) * (length - 1))) for r in ids]
        algorithm = SFT(engine, rows, [], rows_per_step=len(rows), seed=0)
        assert len(engine.split(algorithm.batches(0)[0][0])) == 3
        with tempfile.TemporaryDirectory() as folder:
            record = Run.open(Path(folder) / "run", "", seed=0).stage("it")
            train(algorithm, LoopSettings(steps=2, checkpoint_every=99, optimiser=made), record)

    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 1000}
    steps(engine(tiny, 32), 32, 16)
    measured = engine(SIZES[case["size"]], case["tokens"])
    assert measured.plans
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = status("VmRSS")
    steps(measured, case["tokens"], LENGTH)
    plan = plan_memory(
        Network.of(measured.model.net, measured.model.hf),
        tokens=case["tokens"],
        gradient_checkpointing=case["checkpointing"],
        optimiser_state=case["state"],
        precision=case["precision"],
    )
    return {"predicted": plan.total - plan.weights, "measured": status("VmHWM") - before}


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", type=json.loads, help="measure one case in this process")
    case = parser.parse_args().case
    if case is not None:
        print(json.dumps(measure(case)))
        return
    print("| network | tokens | checkpointing | state | precision | plan | tensors | ratio | heap | ratio |")
    print("|---|---:|---|---|---|---:|---:|---:|---:|---:|")
    for case in CASES:
        words = [case["size"], f"{case['tokens']:,}", "on" if case["checkpointing"] else "off"]
        words += [case["state"], case["precision"]]
        for mapped in (True, False):
            command = [sys.executable, __file__, "--case", json.dumps({**case, "mapped": mapped})]
            environment = {**os.environ, **({"MALLOC_MMAP_THRESHOLD_": "65536"} if mapped else {})}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            predicted, measured = (
                json.loads(done.stdout.splitlines()[-1])[k] for k in ("predicted", "measured")
            )
            words += [f"{predicted / 2**20:.0f} MiB"] if mapped else []
            words += [f"{measured / 2**20:.0f} MiB", f"{predicted / measured:.2f}"]
        print("| " + " | ".join(words) + " |", flush=True)


if __name__ == "__main__":
    main()
