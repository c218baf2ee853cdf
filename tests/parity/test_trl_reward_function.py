"""A reward of ours inside a real TRL GRPO trainer."""

from __future__ import annotations

from pathlib import Path

import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rewardlab.rewards.foreign import as_trl
from rewardlab.rewards.rules import NumericAnswer, TextLength
from support import tiny_policy


def test_two_steps_of_trl_with_a_composed_reward(tmp_path: Path) -> None:
    model = tiny_policy()
    reward = (0.5 * TextLength() + NumericAnswer("right")).named("mix")
    given = as_trl(reward)
    seen: list[float | None] = []

    def watched(**columns: object) -> list[float | None]:
        values = given(**columns)
        seen.extend(values)
        return values

    watched.__name__ = "mix"
    args = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=8,
        learning_rate=1e-3,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        seed=0,
    )
    data = Dataset.from_list([{"prompt": "How many?", "answer": "3"}] * 4)
    trainer = GRPOTrainer(model.hf, watched, args=args, train_dataset=data, processing_class=model.tokenizer)
    trainer.train()
    logs = [x for x in trainer.state.log_history if "rewards/mix/mean" in x]
    assert len(logs) == 2
    assert len(seen) == 8
    for step, log in enumerate(logs):
        values = [v for v in seen[4 * step : 4 * step + 4] if v is not None]
        assert log["rewards/mix/mean"] == pytest.approx(sum(values) / 4, rel=1e-4)
