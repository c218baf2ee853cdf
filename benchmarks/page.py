"""docs/benchmarks.md from what run.py, reward_profile.py and scaling.py wrote:
python benchmarks/page.py *.json reward_profile.md scaling.md

The words are here, the numbers come from the files, whose hashes are printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from run import beside_vllm, table

from rewardlab.records.atomic import sha256

HEAD = """# Speed beside TRL and vLLM

Measured by `benchmarks/run.py`, which `make bench` calls, on two CPU cores: TRL 1.16.0 and rewardlab, each
a process of its own, the same random Llama checkpoint, the same rows of GSM8K in the same order, the same
AdamW, the same effective batch, two threads. TRL runs at its best of fp32 and bf16, gradient checkpointing
on and off, and for DPO with the reference computed beforehand or not, found by a few steps of each: where
two are as fast, noise decides, and with it whose memory is compared. rewardlab then runs in the same
precision. After a warm-up of 2 to 12 steps each, the arms take 5 to 20 turns A B A B in one run; the ratio
is the median over turns with its range. Losses are compared between the fp32 arms; the samplers of two
libraries draw different answers, so GRPO has no such number (on given answers `tests/parity` holds the two
within 1e-6). Tokens per second count real tokens: prompt and answer, no padding; in `sample` the new ones.
Peak memory is the process's resident high-water mark, of which about 490 MiB is the libraries themselves in
both arms.
"""

DIFFERENCE = """
## Where the difference comes from

- Padding, and prompts that answers share, are not computed: the layers see a prompt once per group or
  pair.
- Queries, keys and values are one product, gate and up another; norms, rotations and gates have backward
  passes of their own; the last layer computes, after its attention, only the rows that are read, and
  where they are few, as the last tokens of a reward model, only their queries.
- Attention takes every segment where it lies, without padding or copies.
- In bf16 the CPU's products keep code of about a MiB for every number of rows that they have seen: rows
  come in multiples of 64, so that memory does not grow with the number of different lengths.
- The head computes only the answers' positions, in place, a block of rows in the cache at a time.
- While sampling, a prompt's keys are held once for all its answers, weights are packed, and the layers
  run in fewer, larger steps; the caches grow with the answers, so that they are read without gaps; a
  finished answer's place goes to the next.
- Freed blocks stay with the process, instead of being given back and faulted in at every step.
"""

PROFILE = """
## Where the time of the mode `reward` goes

It has no vocabulary to leave out, so what remains is the layers' own work;
`benchmarks/reward_profile.py`:

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
    print(HEAD)
    for run in runs:
        s = run["settings"]
        print(f"\n## {s['model']} parameters, vocabulary {s['vocab']} (commit {run['commit']})\n")
        print(table(run["results"]))
        for r in run["results"]:
            if "vllm" in r:
                print("\n" + beside_vllm(r["vllm"]))
    print(DIFFERENCE)
    for f in files:
        if f.suffix == ".md":
            print((PROFILE if "profile" in f.name else SCALING) + f.read_text())
    print("From " + ", ".join(f"{f.name} ({sha256(f)[:16]})" for f in files) + ".")


if __name__ == "__main__":
    main()
