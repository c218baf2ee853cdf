"""TRL's arm: its own trainers, with everything off that only reports, paced by the driver."""

from __future__ import annotations

import json
import os
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from pacing import Pacer, arguments
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    TrainerCallback,
)
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)


class Steps(TrainerCallback):
    """Tells the pacer of each optimiser step; the loss is the one that the trainer logs."""

    def __init__(self, pacer: Pacer) -> None:
        self.pacer = pacer
        self.tokens: list[int] = []
        self.taken = 0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.pacer.ready()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            # The loader is a batch ahead of the step.
            tokens = self.tokens[self.taken] if self.taken < len(self.tokens) else 0
            self.taken += 1
            self.pacer.step(tokens=tokens, loss=float(logs["loss"]))


def count(trainer: Any, steps: Steps) -> None:
    """Note how many tokens, padding not counted, each batch has."""
    collate = trainer.data_collator

    def counting(rows: Any) -> Any:
        batch = collate(rows)
        if isinstance(batch, dict) and "attention_mask" in batch:
            steps.tokens.append(int(batch["attention_mask"].sum()))
        return batch

    trainer.data_collator = counting


def generate(a: Any, rows: list[Any], pacer: Pacer) -> None:
    """transformers.generate on 8 prompts times 8."""
    tokenizer = AutoTokenizer.from_pretrained(a.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32).eval()
    settings = GenerationConfig(
        do_sample=True, top_k=0, top_p=1.0, max_new_tokens=a.new_tokens, eos_token_id=None, pad_token_id=0
    )
    pacer.ready()
    for step in range(a.steps):
        lot = [rows[(step * 8 + i) % len(rows)]["prompt"] for i in range(8) for _ in range(8)]
        inputs = tokenizer.apply_chat_template(
            lot, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=a.precision == "bf16"):
            out = model.generate(**inputs, generation_config=settings)
        pacer.step(tokens=out.shape[0] * (out.shape[1] - inputs["input_ids"].shape[1]), loss=None)


def characters(completions: list[Any], **columns: Any) -> list[float]:
    """A reward that costs nothing."""
    return [float(len(c[0]["content"])) for c in completions]


def main() -> None:
    a = arguments().parse_args()
    torch.set_num_threads(2)
    pacer = Pacer()
    rows = [json.loads(line) for line in a.rows.read_text().splitlines()]
    if a.mode == "sample":
        generate(a, rows, pacer)
        return
    common: dict[str, Any] = dict(  # noqa: C408
        output_dir=str(a.rows.parent / "trl"),
        max_steps=a.steps,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        adam_beta2=0.999,
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=a.precision == "bf16",
        gradient_checkpointing=a.checkpointing,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        seed=0,
    )
    steps = Steps(pacer)
    data = Dataset.from_list(rows)
    model = str(a.model)
    trainer: Any
    if a.mode == "sft":
        config = SFTConfig(per_device_train_batch_size=16, max_length=None, **common)
        trainer = SFTTrainer(model, args=config, train_dataset=data, callbacks=[steps])
    elif a.mode == "reward":
        reward = AutoModelForSequenceClassification.from_pretrained(a.model / "reward", num_labels=1)
        config = RewardConfig(per_device_train_batch_size=8, max_length=None, **common)
        trainer = RewardTrainer(
            reward, args=config, train_dataset=data, callbacks=[steps],
            processing_class=AutoTokenizer.from_pretrained(a.model),
        )  # fmt: skip
    elif a.mode == "dpo":
        config = DPOConfig(
            per_device_train_batch_size=8, max_length=None, precompute_ref_log_probs=a.precompute, **common
        )
        trainer = DPOTrainer(model, args=config, train_dataset=data, callbacks=[steps])
    else:
        config = GRPOConfig(
            per_device_train_batch_size=64,
            num_generations=8,
            max_completion_length=a.new_tokens,
            generation_kwargs={"min_new_tokens": a.new_tokens},
            shuffle_dataset=False,
            beta=0.0,
            **common,
        )
        trainer = GRPOTrainer(
            model, reward_funcs=characters, args=config, train_dataset=data, callbacks=[steps]
        )
    if a.mode in ("sft", "reward", "dpo"):
        trainer._get_train_sampler = lambda *args, **kwargs: SequentialSampler(trainer.train_dataset)
        count(trainer, steps)
    trainer.train()


if __name__ == "__main__":
    main()
