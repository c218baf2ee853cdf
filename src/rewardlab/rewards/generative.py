"""A language model asked whether an answer is good: log-odds of yes against no."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from rewardlab.core.batch import Batch, given
from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.data.rendering import render_prompt
from rewardlab.models.engine import Engine
from rewardlab.rewards.base import Resolver, RewardSettings
from rewardlab.rewards.reading import score_readable

QUESTION = "Here is an exchange.\n\n{prompt}\n\n{answer}\n\nIs this a good answer? Reply yes or no."


class GenerativeReward:
    """log p(yes | question) - log p(no | question), the next token's log-odds from one forward pass.

    The question, with `{prompt}` (the conversation's contents) and `{answer}` filled in, is one user turn
    in the model's own chat template. Of words of several tokens the first counts; the two words'
    first tokens must differ. `parts`: `yes`, the probability of yes among the two, and `asked`, the
    probability of either: if it is near 0 the model did not understand the question. Trained with the
    objective `yes_no`; Zhang et al. 2024 (arXiv 2408.15240) call such models generative verifiers. A text
    that cannot be rendered is an error of that rollout alone.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        *,
        question: str = QUESTION,
        yes: str = " yes",
        no: str = " no",
        max_tokens: int | None = None,
    ) -> None:
        self.name, self.engine, self.question, self.max_tokens = name, engine, question, max_tokens
        fields = {field for _, field, _, _ in string.Formatter().parse(question) if field is not None}
        if not {"answer"} <= fields <= {"prompt", "answer"}:
            raise UserError(
                f"{name}: the question has the fields {sorted(fields)}.",
                "Write it with {answer} and, if wanted, {prompt}; double other braces.",
            )
        self.words = [self._first_token(yes), self._first_token(no)]
        if self.words[0] == self.words[1]:
            raise UserError(
                f"{name}: {yes!r} and {no!r} begin with the same token.",
                "Choose other words for `yes` and `no`.",
            )

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """One score per rollout; a non-finite output is an error."""
        return score_readable(rollouts, self._read, self._scores)

    def _first_token(self, word: str) -> int:
        ids = self.engine.model.tokenizer(word, add_special_tokens=False)["input_ids"]
        if not ids:
            raise UserError(f"{self.name}: {word!r} has no token.", "Choose other words for `yes` and `no`.")
        return int(ids[0])

    def _read(self, rollout: Rollout) -> Tokens | str:
        prompt = "\n\n".join(m.content for m in rollout.prompt.messages)
        asked = Message("user", self.question.format(prompt=prompt, answer=rollout.text))
        question = Prompt((asked,), place=rollout.prompt.place)
        try:
            ids = render_prompt(self.engine.model.tokenizer, question, self.max_tokens)
        except UserError as error:
            return error.problem
        return Tokens((*ids, self.words[0]), (*(False for _ in ids), True))

    def _scores(self, rows: list[Tokens]) -> list[Score]:
        batch = Batch.pack(rows)
        batch = replace(batch, action_streams={"slice_ids": torch.tensor([self.words] * len(rows))})
        found = torch.zeros(len(rows), 2)
        with self.engine.frozen():
            for chosen in self.engine.split(batch):
                out = self.engine.logprobs(batch.select(chosen), vocabulary=True)
                found[chosen] = given(out.slice_logp).float().cpu()
        return [self._score(yes, no) for yes, no in found.tolist()]

    def _score(self, yes: float, no: float) -> Score:
        if not (math.isfinite(yes) and math.isfinite(no)):
            return Score.error(f"{self.name}: log p(yes) is {yes}, log p(no) is {no}")
        asked = math.exp(yes) + math.exp(no)
        share = 1 / (1 + math.exp(min(no - yes, 700.0)))
        return Score(yes - no, parts={self.name: yes - no, "yes": share, "asked": asked})


class GenerativeSettings(RewardSettings):
    """A language model asked whether the answer is good; the reward is the log-odds of yes."""

    kind: Literal["generative"] = "generative"
    model: str
    """The model asked: `base`, a stage or a folder."""
    question: str = QUESTION
    """One user turn with `{answer}` and, if wanted, `{prompt}`."""
    yes: str = " yes"
    no: str = " no"
    """The words compared by their first token, as the model would begin its reply with them."""
    max_tokens: int | None = None
    """A longer question loses its left end."""

    def build(self, name: str, resolver: Resolver) -> GenerativeReward:
        """The reward."""
        options = self.model_dump(exclude={"kind", "model"})
        return GenerativeReward(name, resolver.policy(self.model), **options)
