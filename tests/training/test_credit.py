"""Credit from scores: by parts, by steps, by a judge, against a greedy answer; checked by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.data.rendering import render_prompt
from rewardlab.judges.base import Comparison
from rewardlab.models.engine import Engine
from rewardlab.objectives.advantage import group_relative
from rewardlab.rewards.process import ProcessReward
from rewardlab.training.algorithms.grpo import GRPO, GRPOSettings
from rewardlab.training.credit import Credit, CreditSettings
from rewardlab.training.experience import Experience
from rewardlab.training.judged import JudgeSettings, build_judge, wins
from support import tiny_policy, tiny_reward_model

PROMPT = Prompt((Message("user", "How do I bake bread?"),))


def answer(group: int, score: Score, actions: int = 4) -> Rollout:
    ids = (5, 9, *range(20, 20 + actions))
    row = Tokens(ids, (False, False, *(True,) * actions), logp=(0.0,) * len(ids))
    return Rollout(PROMPT, row, f"{score.value} {actions}", group, score)


def credited(settings: CreditSettings, rollouts: list[Rollout], credit: Credit | None = None) -> Any:
    """(advantage of each answer's tokens from its first action on, numbers)."""
    batch = Batch.pack([r.sequence for r in rollouts], group=[r.group for r in rollouts])
    reward = torch.tensor([r.score.value or 0.0 for r in rollouts])
    ok = torch.tensor([r.score.value is not None for r in rollouts])
    credit = credit or Credit(settings, None)
    found, numbers = credit.advantages(batch, rollouts, reward, ok)
    rows = found.split(batch.lengths.tolist())
    assert all(float(row[:2].abs().max()) == 0 for row in rows)
    return [row[2:].tolist() for row in rows], numbers


def of_steps(group: int, *values: float | None) -> Rollout:
    return answer(group, Score(0.5, tokens=(None, None, *values)), len(values))


def test_process_by_hand() -> None:
    """Steps worth 1, 0 | 0, 1 in one group: z = +-0.866 (n - 1), and each token has the steps still to end."""
    rollouts = [of_steps(0, None, 1.0, None, 0.0, None), of_steps(0, 0.0, 1.0), answer(0, Score(0.9), 3)]
    found, numbers = credited(CreditSettings(advantage="process"), rollouts)
    z = 0.5 / (1 / 3) ** 0.5
    assert found[0] == pytest.approx([0, 0, -z, -z, 0], abs=1e-4)
    assert found[1] == pytest.approx([0, z], abs=1e-4)
    assert found[2] == [0, 0, 0]
    assert numbers == {"without_token_values": 1.0, "steps_per_answer": 2.0}


def test_process_without_token_values_says_why() -> None:
    rollouts = [answer(0, Score(1.0, reason="other ids")), answer(0, Score(0.0))]
    with pytest.raises(UserError, match="other ids"):
        credited(CreditSettings(advantage="process"), rollouts)


def test_a_process_reward_marks_the_sampled_ids_where_its_steps_end() -> None:
    model = tiny_reward_model()
    reward = ProcessReward("prm", Engine(model), steps="sentence")
    steps = ["The time you need is ten minutes.", "The cost is about two dollars."]
    tokenizer = model.tokenizer
    prompt = render_prompt(tokenizer, PROMPT)
    ids = tokenizer(" ".join(steps), add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    row = Tokens((*prompt, *ids), (*(False for _ in prompt), *(True for _ in ids)))
    (score,) = reward.score([Rollout(PROMPT, row, " ".join(steps))])
    ends = [t for t, v in enumerate(score.tokens) if v is not None]
    read = [tokenizer.decode(row.ids[len(prompt) : t + 1]) for t in ends]
    assert read == [steps[0], " ".join(steps)]
    assert min(score.tokens[t] for t in ends) == score.value
    # the same text as other ids: single bytes in place of merged ones
    alphabet = [tokenizer.convert_tokens_to_ids(c) for c in "The"]
    assert tokenizer.decode(alphabet) == "The"
    rest = tokenizer(" ".join(steps)[3:], add_special_tokens=False)["input_ids"]
    other = Tokens(
        (*prompt, *alphabet, *rest), (*(False for _ in prompt), *(True,) * (len(alphabet) + len(rest)))
    )
    (same,) = reward.score([Rollout(PROMPT, other, " ".join(steps))])
    assert same.value == score.value
    assert same.tokens is None
    assert "other ids" in same.reason


def test_a_part_that_is_only_sometimes_there_is_no_signal_where_it_is_missing() -> None:
    settings = CreditSettings(advantage="gdpo", part_weights={"a": 1.0, "b": 1.0})
    credit = Credit(settings, None)
    first = [answer(0, Score(1.0, parts={"a": float(i), "b": 1.0})) for i in range(3)]
    credited(settings, first, credit)
    later = [answer(0, Score(1.0, parts={"a": float(i)})) for i in range(3)]  # b is nowhere in this step
    found, numbers = credited(settings, later, credit)
    alone = CreditSettings(advantage="gdpo", part_weights={"a": 1.0})
    assert found == credited(alone, later)[0]
    assert found[0][0] < 0 < found[2][0]
    assert numbers["missing_parts"] == 3
    some = [answer(0, Score(1.0, parts={"a": 0.0} | ({"b": float(i)} if i else {}))) for i in range(3)]
    found, _ = credited(settings, some, credit)
    assert found[0][0] == pytest.approx(0, abs=1e-6)
    assert found[1][0] == pytest.approx(-found[2][0])


def test_a_part_that_was_never_there_is_a_typo() -> None:
    settings = CreditSettings(advantage="gdpo", part_weights={"typo": 1.0})
    failed = [answer(0, Score.error("died")) for _ in range(2)]
    credit = Credit(settings, None)
    credited(settings, failed, credit)  # nothing was scored: nothing is known yet
    with pytest.raises(UserError, match="no score has a part typo"):
        credited(settings, [answer(0, Score(1.0, parts={"a": 1.0}))] * 2, credit)
    resumed = Credit(settings, None)
    resumed.load_state({"looked": True})
    credited(settings, [answer(0, Score(1.0, parts={"a": 1.0}))] * 2, resumed)


class Told:
    """Says what it was told of each pair of values."""

    name = "told"

    def __init__(self, verdicts: dict[tuple[float, float], float | None]) -> None:
        self.verdicts = verdicts

    def compare(self, pairs: Sequence[tuple[Rollout, Rollout]]) -> list[Comparison]:
        found = [self.verdicts[a.score.value, b.score.value] for a, b in pairs]
        return [Comparison.abstain("?") if v is None else Comparison(v) for v in found]


def test_a_judges_wins_by_hand() -> None:
    rollouts = [answer(0, Score(float(i))) for i in range(3)] + [answer(0, Score.error("died"))]
    judge = Told({(0.0, 1.0): 0.25, (0.0, 2.0): 1.0, (1.0, 2.0): None})
    settings = CreditSettings(advantage="pairwise", judge=JudgeSettings(reward="length"))
    found, numbers = credited(settings, rollouts, Credit(settings, None, judge))
    # d: 0 loses half a point to 1 and wins a full one against 2; the divisor is sqrt(2.5 / 12)
    scale = (2.5 / 12) ** 0.5
    expected = [0.5 / 3 / scale, 0.5 / 3 / scale, -1 / 3 / scale, 0]
    assert [row[0] for row in found] == pytest.approx(expected, abs=1e-5)
    assert numbers["unjudged_pairs"] == 1


class OfValue:
    """The score that the answer has already."""

    name = "value"

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return [r.score for r in rollouts]


def test_asking_both_orders_takes_the_position_out() -> None:
    rollouts = [answer(0, Score(0.1 * i)) for i in range(4)]
    group, ok = torch.zeros(4, dtype=torch.long), torch.ones(4, dtype=torch.bool)
    knobs = {"reward": "value", "position_shift": 3.0}
    both, once = (
        wins(build_judge(OfValue(), JudgeSettings(**knobs, both_orders=b), 0), rollouts, group, ok)[0]
        for b in (True, False)
    )
    assert (both.sum(1).diff() > 0).all()  # better answers win more
    assert (once.sum(1).diff() < 0).all()  # earlier ones do
    assert torch.allclose(both, -both.T)
    assert torch.allclose(once, -once.T)


def test_noise_turns_round_its_share_of_pairs() -> None:
    rollouts = [answer(0, Score(float(i))) for i in range(30)]
    group, ok = torch.zeros(30, dtype=torch.long), torch.ones(30, dtype=torch.bool)
    settings = JudgeSettings(reward="value", temperature=0, noise_rate=0.2)
    beats, _, _ = wins(build_judge(OfValue(), settings, 0), rollouts, group, ok)
    wrong = (beats.triu(1) > 0).sum() / (30 * 29 / 2)  # a later answer is better
    assert float(wrong) == pytest.approx(0.2, abs=0.07)


class Length:
    """One point for each token."""

    name = "length"

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return [Score(float(r.sequence.actions)) for r in rollouts]


def grpo(**knobs: Any) -> GRPO:
    engine = Engine(tiny_policy("qwen3"))
    s = GRPOSettings(
        **{
            "prompts_per_step": 2,
            "samples_per_prompt": 3,
            "max_new_tokens": 5,
            "train_truncated": True,
            **knobs,
        }
    )
    experience = Experience(engine, [PROMPT, PROMPT], [[5, 9], [7]], Length(), s, prompts_at_once=2, seed=0)
    return GRPO(engine, experience, s)


def test_remax_charges_the_greedy_answer_for_its_kl_too() -> None:
    """An answer that is the greedy one, drawn again, has advantage 0 whatever the KL costs."""
    algorithm = grpo(advantage="remax", kl_placement="reward", kl_estimator="k1", kl_coefficient=0.7)
    with torch.no_grad():
        for p in algorithm.engine.parameters.values():
            p.mul_(1.05)
    drawn = algorithm.experience.collect(0)
    greedy = algorithm.experience.greedy(drawn)
    rows = [greedy[g].sequence for g in sorted(greedy)]
    logp = algorithm.engine.frozen_logprobs(Batch.pack(rows)).logp.split([len(r) for r in rows])
    again = [
        Rollout(PROMPT, Tokens(r.ids, r.action, tuple(x.tolist())), "", g, greedy[g].score)
        for g, r, x in zip(sorted(greedy), rows, logp, strict=True)
    ]
    batch, _ = algorithm.fill([*drawn, *again])
    own = batch.streams["advantage"][batch.offsets[1:] - 1]
    assert own[-2:].tolist() == pytest.approx([0, 0], abs=1e-4)
    assert float(own[:-2].abs().max()) > 0.1


def test_what_would_be_ignored_is_refused() -> None:
    judge = {"reward": "length"}
    with pytest.raises(UserError, match="asks no judge"):
        grpo(judge=judge)
    for knobs in ({"advantage": "process"}, {"advantage": "pairwise", "judge": judge}):
        with pytest.raises(UserError, match="ignore a KL"):
            grpo(**knobs, kl_placement="reward")
    with pytest.raises(UserError, match="gspo_token"):
        grpo(advantage="process", loss="gspo")
    with pytest.raises(ValidationError, match="position_shift"):
        JudgeSettings(reward="length", temperature=0, position_shift=1.0)


def test_outcome_advantages_stand_at_every_action() -> None:
    rollouts = [answer(g, Score(float(i)), actions=2 + i) for g in (0, 1) for i in range(3)]
    found, _ = credited(CreditSettings(), rollouts)
    expected = group_relative(torch.tensor([0.0, 1, 2] * 2), torch.tensor([0] * 3 + [1] * 3)).tolist()
    assert [set(row) for row in found] == [{a} for a in expected]
