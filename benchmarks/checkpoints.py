"""Checkpoints and rows that every arm of the benchmark shares: random weights, real text.

The tokenizer is trained on the rows, has a pad token of its own, and its chat template ends with the stop
token, so that all libraries render the same ids.
"""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rewardlab.models.scratch import ScratchSettings, make

SIZES = {
    "4m": {"hidden_size": 256, "layers": 4, "heads": 4, "intermediate_size": 688},
    "12m": {"hidden_size": 384, "layers": 6, "heads": 6, "intermediate_size": 1024},
}
VOCABULARIES = {"4k": 4096, "32k": 32000}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def gsm8k(data: Path) -> list[dict[str, str]]:
    """Problems with their solutions."""
    file = data / "gsm8k_train.jsonl.gz"
    if not file.is_file():
        raise SystemExit(f"{file} is missing; give the folder of gsm8k_train.jsonl.gz with --data")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def checkpoint(size: str, vocabulary: str, rows: list[dict[str, str]], folder: Path) -> Path:
    """A policy in `folder` and a reward model of the same trunk in `folder`/reward; made once."""
    if (folder / "reward" / "config.json").is_file():
        return folder
    settings = ScratchSettings(vocabulary=VOCABULARIES[vocabulary], context=2048, **SIZES[size])
    texts = [f"user\nassistant\n{r['prompt']}\n{r['solution']}" for r in rows]
    make(settings, texts, folder, seed=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.pad_token = "<|im_start|>"  # never the last token of a sequence
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["pad_token_id"] = tokenizer.pad_token_id
    (folder / "config.json").write_text(json.dumps(config))
    reward = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    reward.score.weight.data = torch.randn(
        reward.score.weight.shape, generator=torch.Generator().manual_seed(0)
    ).div(settings.hidden_size)
    reward.save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")
    return folder


def job(mode: str, rows: list[dict[str, str]], steps: int) -> list[dict[str, Any]]:
    """The rows of a run in the order in which every arm takes them."""
    per_step = {"sft": 16, "reward": 8, "dpo": 8}.get(mode, 8)
    rows = rows[: per_step * steps + 1]
    if mode == "sft":
        return [_turn(r) | {"completion": _answer(r["solution"])} for r in rows[:-1]]
    if mode in ("reward", "dpo"):
        # The answer to the next problem stands in for a bad one: long enough, and certainly worse.
        return [
            _turn(r) | {"chosen": _answer(r["solution"]), "rejected": _answer(other["solution"])}
            for r, other in pairwise(rows)
        ]
    if mode == "grpo-long-prompt":
        return [_turn({"prompt": " ".join([r["prompt"]] * 20)}) for r in rows[:-1]]
    return [_turn(r) for r in rows[:-1]]


def _turn(row: dict[str, str]) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": row["prompt"]}]}


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def cut_prompts(rows: list[dict[str, Any]], tokenizer: Any, tokens: int) -> list[dict[str, Any]]:
    """Prompts cut to about so many tokens, so that every rendered one has the same length."""
    found = []
    for row in rows:
        ids = tokenizer(row["prompt"][0]["content"], add_special_tokens=False)["input_ids"][:tokens]
        found.append({"prompt": [{"role": "user", "content": tokenizer.decode(ids)}]})
    return found
