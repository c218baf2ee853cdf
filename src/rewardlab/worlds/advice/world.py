"""The object users touch: prompts, text, preference pairs and the gold reward of one advice world.

Every method is a function of the settings and its own arguments. Texts and labels come from separate
random streams, so changing a knob of the labeller relabels the same answers; a longer call starts with
the rows of a shorter one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Literal

from pydantic import Field

from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings
from rewardlab.core.types import Example, Message, Messages, Pair, Prompt, Steps
from rewardlab.worlds.advice.gold import GoldReward, GoldSettings
from rewardlab.worlds.advice.labeller import Labeller, LabellerSettings, Seen
from rewardlab.worlds.advice.language import Sentence, count_words, parse, render
from rewardlab.worlds.advice.questions import Question, questions
from rewardlab.worlds.advice.topics import ASPECTS, make_topics
from rewardlab.worlds.advice.writers import WriterSettings, default_writers, draw_writer, write

Split = Literal["train", "heldout"]


class AdviceSettings(Settings):
    """Everything that makes an advice world."""

    seed: int = 0
    """World seed: which topics exist, which are held out, and what is true of them."""
    topics: int = Field(default=60, ge=2)
    """Number of topics, at most 80."""
    heldout_topics: int = Field(default=12, ge=1)
    """How many of them only the split `heldout` asks about."""
    max_aspects: int = Field(default=4, ge=1, le=len(ASPECTS))
    """A question asks for 1 to this many aspects."""
    gold: GoldSettings = GoldSettings()
    """Weights of the gold reward."""
    labeller: LabellerSettings = LabellerSettings()
    """The labeller's biases and noise."""
    writers: dict[str, WriterSettings] = Field(default_factory=default_writers)
    """The writers by name."""
    base_mix: dict[str, float] = Field(default={"careful": 1.0, "plain": 1.5, "chatty": 1.5, "careless": 1.0})
    """Weight of each writer in the base text."""
    demonstration_mix: dict[str, float] = Field(default={"careful": 3.0, "plain": 1.0})
    """Weight of each writer in the demonstrations."""
    pair_mix: dict[str, float] = Field(default={"careful": 1.0, "plain": 1.0, "chatty": 1.5, "careless": 1.0})
    """Weight of each writer in the pairs; the two answers of a pair have independently drawn writers."""


class AdviceWorld:
    """A world of short advice with a known gold reward and a biased labeller."""

    def __init__(self, settings: AdviceSettings | None = None) -> None:
        self.settings = settings or AdviceSettings()
        s = self.settings
        for field in ("base_mix", "demonstration_mix", "pair_mix"):
            _check_mix(field, getattr(s, field), s.writers)
        self.topics = make_topics(s.seed, s.topics, s.heldout_topics)
        self.labeller = Labeller(s.labeller)
        self.gold = GoldReward(self.topics, s.gold, s.seed)

    def prompts(self, n: int, *, split: Split, seed: int) -> list[Prompt]:
        """n prompts on the topics of a split, distinct within the call as long as possible.

        Distinct prompts run out at topics x aspect subsets x wordings: 46,656 on the default train
        split and 11,664 on heldout; then all of them come again in a new order.
        """
        return self._prompts(n, split, "prompts", seed)

    def demonstrations(self, n: int, *, split: Split, seed: int) -> list[Example]:
        """n questions with good but imperfect answers."""
        return self._answered(n, split, "demonstrations", seed, self.settings.demonstration_mix)

    def base_text(self, n: int, *, seed: int) -> list[Example]:
        """n conversations over all topics, held-out ones too, in which every behaviour occurs.

        Pretraining text: it teaches the language and the facts, and not which behaviour is wanted.
        """
        return self._answered(n, "base", "base", seed, self.settings.base_mix)

    def pairs(self, n: int, *, split: Split, seed: int) -> list[Pair]:
        """n labelled pairs; `chosen` is the answer that the labeller picked, `label` is 1.0.

        `meta` holds the prompt's meta and, for an audit: gold_*, parts_* (of the gold value), words_*,
        opener_*, utility_* (without noise) and writer_* of chosen and rejected; p_chosen, the true
        probability that the labeller picks `chosen`. The two texts differ, except where 100 draws of
        the second answer could not make them differ.
        """
        text_stream, label_stream = self._rng("pairs", split, seed), self._rng("labels", split, seed)
        pairs = []
        for prompt in self._prompts(n, split, "pairs", seed):
            first, first_writer = self._answer(prompt, self.settings.pair_mix, text_stream)
            for _ in range(100):
                second, second_writer = self._answer(prompt, self.settings.pair_mix, text_stream)
                if second != first:
                    break
            a, b = self._seen(prompt, first), self._seen(prompt, second)
            if self.labeller.prefers_first(a, b, label_stream):
                pairs.append(self._pair(prompt, (first, first_writer, a), (second, second_writer, b)))
            else:
                pairs.append(self._pair(prompt, (second, second_writer, b), (first, first_writer, a)))
        return pairs

    def ratings(self, n: int, *, split: Split, seed: int) -> list[Example]:
        """n answers of every quality; `meta` holds `label`, the labeller's noisy rating, and `gold`."""
        text_stream, label_stream = self._rng("ratings", split, seed), self._rng("rated", split, seed)
        rows = []
        for prompt in self._prompts(n, split, "ratings", seed):
            text, writer = self._answer(prompt, self.settings.pair_mix, text_stream)
            seen = self._seen(prompt, text)
            messages = (*prompt.messages, Message("assistant", text))
            meta = {**prompt.meta, "writer": writer, "gold": seen.gold}
            meta["label"] = self.labeller.rating(seen, label_stream)
            rows.append(Example(messages, id=_content_id(messages), meta=meta, place=prompt.place))
        return rows

    def steps(self, n: int, *, split: Split, seed: int) -> list[Steps]:
        """n answers cut into sentences, each labelled: 1 where the gold reward does not charge for it.

        1: a right fact that was asked for, a hedge on an aspect that was asked for and is not answered.
        0: everything else, and what says again what an earlier sentence said.
        """
        rng = self._rng("steps", split, seed)
        rows = []
        for prompt in self._prompts(n, split, "steps", seed):
            text, writer = self._answer(prompt, self.settings.pair_mix, rng)
            sentences = parse(text)
            labels = self._step_labels(sentences, prompt)
            texts = tuple(render([s]) for s in sentences)
            id = _content_id((*prompt.messages, Message("assistant", text)))
            meta = {**prompt.meta, "writer": writer}
            rows.append(Steps(prompt.messages, texts, labels, id, meta, prompt.place))
        return rows

    def _step_labels(self, sentences: Sequence[Sentence], prompt: Prompt) -> tuple[float, ...]:
        facts, asked = self._facts(prompt), set(prompt.meta["aspects"])
        answered = {s.aspect for s in sentences if s.kind == "fact"}
        said, labels = set(), []
        for s in sentences:
            right = s.kind == "fact" and facts[s.aspect] == s.value
            honest = s.kind == "hedge" and s.aspect not in answered
            labels.append(float((right or honest) and s.aspect in asked and s.content not in said))
            said.add(s.content)
        return tuple(labels)

    def preference(self, prompt: Prompt, a: str, b: str) -> float:
        """The true probability that the labeller prefers answer a to answer b."""
        return self.labeller.probability(self._seen(prompt, a), self._seen(prompt, b))

    def knows(self, prompt: Prompt) -> bool:
        """Whether the prompt is a question of this world."""
        return self.gold.score_text("", prompt.meta).status == "ok"

    def best_answer(self, prompt: Prompt) -> str:
        """An answer with the highest gold value, 1: each requested fact once, nothing else."""
        facts = self.topics.facts[prompt.meta["topic"]]
        return render(Sentence("fact", aspect, facts[aspect]) for aspect in prompt.meta["aspects"])

    def behaviour(self, text: str, prompt: Prompt) -> dict[str, float]:
        """What one answer does: flags are 0 or 1, the rest are counts.

        format_valid: at least one sentence and none that the parser cannot read.
        """
        sentences = parse(text)
        kinds = [s.kind for s in sentences]
        facts = self._facts(prompt)
        told = [s for s in sentences if s.kind == "fact"]
        return {
            "has_opener": float("opener" in kinds),
            "has_closer": float("closer" in kinds),
            "fillers": float(kinds.count("filler")),
            "hedges": float(kinds.count("hedge")),
            "noise": float(kinds.count("noise")),
            "right_facts": float(sum(facts[s.aspect] == s.value for s in told)),
            "wrong_facts": float(sum(facts[s.aspect] != s.value for s in told)),
            "unrequested_facts": float(sum(s.aspect not in prompt.meta["aspects"] for s in told)),
            "format_valid": float(bool(sentences) and "noise" not in kinds),
            "sentences": float(len(sentences)),
            "words": float(count_words(text)),
        }

    def _rng(self, purpose: str, split: str, seed: int) -> random.Random:
        # A string seed is hashed, so streams of different purposes are independent.
        return random.Random(f"advice:{self.settings.seed}:{purpose}:{split}:{seed}")

    def _prompts(self, n: int, split: str, purpose: str, seed: int) -> list[Prompt]:
        names = {"train": self.topics.train, "heldout": self.topics.heldout, "base": self.topics.all}
        if split not in ("train", "heldout") and purpose != "base":
            raise UserError(f"The advice world has no split {split!r}.", "Use 'train' or 'heldout'.")
        if n < 0:
            raise UserError(f"The advice world cannot make {n} rows.", "Ask for 0 or more.")
        stream = questions(names[split], self.settings.max_aspects, self._rng(f"{purpose}-q", split, seed))
        return [self._prompt(question, f"advice:{split}:{i}") for i, question in enumerate(islice(stream, n))]

    def _prompt(self, question: Question, place: str) -> Prompt:
        messages = (Message("user", question.text),)
        meta = {
            "world": "advice",
            "world_seed": self.settings.seed,
            "topic": question.topic,
            "aspects": list(question.aspects),
        }
        return Prompt(messages, _content_id(messages), meta, place)

    def _answer(self, prompt: Prompt, mix: Mapping[str, float], rng: random.Random) -> tuple[str, str]:
        """An answer's text and its writer's name."""
        name = draw_writer(mix, rng)
        facts = self.topics.facts[prompt.meta["topic"]]
        return render(write(prompt.meta["aspects"], facts, self.settings.writers[name], rng)), name

    def _answered(
        self, n: int, split: str, purpose: str, seed: int, mix: Mapping[str, float]
    ) -> list[Example]:
        rng = self._rng(purpose, split, seed)
        rows = []
        for prompt in self._prompts(n, split, purpose, seed):
            text, writer = self._answer(prompt, mix, rng)
            messages = (*prompt.messages, Message("assistant", text))
            meta = {**prompt.meta, "writer": writer}
            rows.append(Example(messages, id=_content_id(messages), meta=meta, place=prompt.place))
        return rows

    def _facts(self, prompt: Prompt) -> Mapping[str, str]:
        topic = prompt.meta.get("topic", "")
        if topic not in self.topics.facts:
            raise UserError(
                f"{prompt.place or 'A prompt'}: this advice world has no topic {topic!r}.",
                "Use prompts that this world made.",
            )
        return self.topics.facts[topic]

    def _seen(self, prompt: Prompt, text: str) -> Seen:
        score = self.gold.score_text(text, prompt.meta)
        if score.value is None:
            raise UserError(
                f"{prompt.place or 'A prompt'}: {score.reason}", "Use prompts that this world made."
            )
        return Seen(score.value, count_words(text), any(s.kind == "opener" for s in parse(text)))

    def _pair(self, prompt: Prompt, chosen: tuple[str, str, Seen], rejected: tuple[str, str, Seen]) -> Pair:
        meta: dict[str, Any] = {
            **prompt.meta,
            "p_chosen": self.labeller.probability(chosen[2], rejected[2]),
        }
        for role, (text, writer, seen) in (("chosen", chosen), ("rejected", rejected)):
            meta[f"gold_{role}"] = seen.gold
            meta[f"parts_{role}"] = dict(self.gold.score_text(text, prompt.meta).parts)
            meta[f"words_{role}"] = seen.words
            meta[f"opener_{role}"] = seen.opener
            meta[f"utility_{role}"] = self.labeller.utility(seen)
            meta[f"writer_{role}"] = writer
        answers = [(Message("assistant", text),) for text, _, _ in (chosen, rejected)]
        id = _content_id((*prompt.messages, *answers[0], *answers[1]))
        return Pair(prompt.messages, answers[0], answers[1], id=id, meta=meta, place=prompt.place)


def _content_id(messages: Messages) -> str:
    """16 hex digits of the SHA-256 of the roles and contents."""
    text = "\x1e".join(f"{m.role}\x1f{m.content}" for m in messages)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_mix(field: str, mix: Mapping[str, float], writers: Mapping[str, WriterSettings]) -> None:
    unknown = sorted(set(mix) - set(writers))
    if unknown:
        raise UserError(
            f"{field} names writers that do not exist: {', '.join(unknown)}.",
            f"Use {', '.join(writers)}, or add them to writers.",
        )
    if any(weight < 0 for weight in mix.values()) or sum(mix.values()) <= 0:
        raise UserError(f"The weights of {field} must be 0 or more and sum to more than 0.", "Raise one.")
