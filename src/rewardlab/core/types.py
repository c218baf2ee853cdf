"""The nouns: messages, rows, sequences, rollouts, scores.

Token ids are the record; text is derived from them, never the other way round. All of these are
frozen, so a row that passed its checks stays checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """`system`, `user`, `assistant` or `tool`."""
    content: str


Messages = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a policy is asked: a conversation that ends before the answer."""

    messages: Messages
    id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever a reward needs to know and the policy must not see (reference answer, world state)."""
    place: str = ""
    """Where the row came from, as `file:line`."""


@dataclass(frozen=True, slots=True)
class Example:
    """One supervised row: messages, and which of them are trained on."""

    messages: Messages
    trained: tuple[bool, ...] | None = None
    """One flag per message; None means every assistant message."""
    id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""

    def mask(self) -> tuple[bool, ...]:
        """Which messages are trained on, with the default filled in."""
        if self.trained is not None:
            return self.trained
        return tuple(m.role == "assistant" for m in self.messages)


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference: two answers to one prompt."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    label: float = 1.0
    """Probability that `chosen` is the better one; 1 for a hard label, 0.5 for a tie."""
    weight: float = 1.0
    margin: float | None = None
    """By how much `chosen` is better, in the annotator's own units, if known."""
    id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""


@dataclass(frozen=True, slots=True)
class Steps:
    """An answer in steps, each with a label: data of a process reward model."""

    prompt: Messages
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]
    """One per step: probability that the step is right; None where nobody said."""
    id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""


StopReason = Literal["stop", "length", "data"]


@dataclass(frozen=True, slots=True)
class Sequence:
    """Token ids and which of them the policy chose.

    `ids`, `action` and, if present, `logp` and `temperature` have the same length. `logp[t]` is the
    log-probability with which token t was sampled, at the temperature used; 0 where `action` is false.
    """

    ids: tuple[int, ...]
    action: tuple[bool, ...]
    logp: tuple[float, ...] | None = None
    temperature: float = 1.0
    version: int = 0
    """Version of the policy that sampled it: the optimiser step count at sampling time."""
    stop: StopReason = "data"
    """`stop`: ended on a stop token; `length`: cut by the token limit; `data`: not sampled."""

    def __post_init__(self) -> None:
        if len(self.action) != len(self.ids):
            raise ValueError(f"{len(self.ids)} ids but {len(self.action)} action flags")
        if self.logp is not None and len(self.logp) != len(self.ids):
            raise ValueError(f"{len(self.ids)} ids but {len(self.logp)} log-probs")
        if self.action and self.action[0]:
            raise ValueError("the first token of a sequence has no prefix, so it cannot be an action")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def actions(self) -> int:
        """Number of tokens that the policy chose."""
        return sum(self.action)


@dataclass(frozen=True, slots=True)
class Score:
    """What a reward says of one rollout: a value, or that it abstains, or that it failed.

    An error is never silently a 0: `value` is None unless `status` is "ok", and an ok value is finite.
    """

    value: float | None
    status: Literal["ok", "abstain", "error"] = "ok"
    parts: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    """Why it abstained or failed."""
    tokens: tuple[float | None, ...] | None = None
    """Per-token values, aligned with the sequence's ids, where the reward gives them; None at tokens that
    have none, as inside a step that is judged at its end."""
    uncertainty: float | None = None

    def __post_init__(self) -> None:
        if (self.status == "ok") != (self.value is not None):
            raise ValueError(f"a score with status {self.status!r} cannot have value {self.value!r}")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a score must be finite, got {self.value!r}; use Score.error(reason)")

    @staticmethod
    def abstain(reason: str) -> Score:
        """The reward has no opinion on this rollout."""
        return Score(None, "abstain", reason=reason)

    @staticmethod
    def error(reason: str) -> Score:
        """The reward could not be computed; the rollout is left out of training and counted."""
        return Score(None, "error", reason=reason)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled (or given) answer with its prompt, ids and score."""

    prompt: Prompt
    sequence: Sequence
    text: str
    """The answer decoded from the action ids, stop token removed."""
    group: int = 0
    """Index of the prompt instance; rollouts of one prompt share it."""
    score: Score | None = None


Group = list[Rollout]
