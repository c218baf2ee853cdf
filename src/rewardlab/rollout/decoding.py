"""Continuous batching: answers of unlike length side by side, the place of a finished one given to the next.

Every answer has its own row of uniforms, so neither the place nor the moment at which it is decoded changes
what is drawn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rewardlab.core.types import StopReason
from rewardlab.models.attention import Plan
from rewardlab.models.engine import Engine
from rewardlab.models.head import logits_of
from rewardlab.rollout.cache import Decode, Layers, Prefill, beside, widened
from rewardlab.rollout.draw import draw
from rewardlab.rollout.stopping import Stopping

States = Callable[[Tensor, Tensor, Plan], Tensor]
"""Float[B, L, H] hidden states of ids and positions Long[B, L], attending as planned."""
REFILL = 0.25
"""Share of places that must be free before they are given to others: each time costs a copy of the cache."""


@dataclass(frozen=True)
class Answers:
    """What was decoded, one row per answer."""

    ids: Tensor
    """Long[A, M]."""
    logp: Tensor
    """Float[A, M]."""
    length: Tensor
    """Long[A]: tokens of each answer."""
    stopped: Tensor
    """Bool[A]: it ended on a stop token or text."""

    def row(self, i: int) -> tuple[list[int], list[float], StopReason]:
        """Ids, log-probs and stop reason of an answer."""
        end = int(self.length[i])
        return (
            self.ids[i, :end].tolist(),
            self.logp[i, :end].tolist(),
            "stop" if self.stopped[i] else "length",
        )


@dataclass(frozen=True)
class Queue:
    """What is to be decoded."""

    prompts: list[list[int]]
    prompt_of: list[int]
    """Answer a is to prompts[prompt_of[a]]."""
    uniforms: Tensor
    """Float[A, M]: answer a draws its t-th token with uniforms[a, t]."""
    temperature: float
    places: int
    """Answers side by side at most."""
    stopping: Stopping
    advance: Callable[[int], None]
    """Told how many answers have ended."""


class Decoder:
    """Decodes a queue, giving the place of an ended answer to the next. One use each."""

    def __init__(self, engine: Engine, states: States, queue: Queue) -> None:
        """`states` is the engine's way of decoding."""
        self.engine, self.states, self.todo = engine, states, queue
        device = engine.model.device
        self.uniforms = queue.uniforms.to(device)
        answers, self.most = self.uniforms.shape
        self.answers = Answers(
            torch.zeros(answers, self.most, dtype=torch.long, device=device),
            torch.zeros(answers, self.most, device=device),
            torch.full((answers,), self.most, device=device),
            torch.zeros(answers, dtype=torch.bool, device=device),
        )
        self.waiting = deque(range(answers))
        self.rows = torch.empty(0, dtype=torch.long, device=device)
        """Long[R]: the answer in each place."""
        self.alive = torch.empty(0, dtype=torch.bool, device=device)
        self.active: list[int] = []
        """Prompts whose keys are held, in the cache's order."""
        self.ends = torch.empty(0, device=device)
        """Float[G, H]: the hidden state at the last token of each of them."""
        self.hidden = torch.empty(0, device=device)
        """Float[R, H]: the hidden state that the next token is drawn from."""
        self.cache: Decode | None = None

    def run(self) -> Answers:
        """Decode everything."""
        while True:
            free = int((~self.alive).sum()) + self.todo.places - self.rows.numel()
            if not bool(self.alive.any()) or (self.waiting and free >= REFILL * self.todo.places):
                self._rearrange()
                if not self.rows.numel():
                    return self.answers
            elif int(self.alive.sum()) <= (1 - REFILL) * self.rows.numel() and not self.waiting:
                self._rearrange()
            self._step()

    def _step(self) -> None:
        """Draw a token for every place, then let the network read it."""
        assert self.cache is not None
        at = self.cache.done
        logits = logits_of(self.engine.model.hf, self.hidden)
        token, logp = draw(logits, self.uniforms[self.rows, at], self.todo.temperature)
        live = self.alive
        rows, place = self.rows[live], at[live]
        self.answers.ids[rows, place], self.answers.logp[rows, place] = token[live], logp[live]
        stopped = live.clone()
        stopped[live] = self.todo.stopping(self.answers.ids[rows], place)
        ended = stopped | (live & (at + 1 == self.most))
        if bool(ended.any()):
            self.answers.stopped[self.rows[stopped]] = True
            self.answers.length[self.rows[ended]] = at[ended] + 1
            self.alive = live & ~ended
            self.todo.advance(int(ended.sum()))
            if not bool(self.alive.any()):
                return
        self.cache.prepare()
        self.hidden = self.states(token[:, None], self.cache.position[:, None], self.cache)[:, -1]
        # A place whose answer has ended is computed until it is given away; it stays at its last token.
        self.cache.done = (at + 1).clamp(max=self.most - 1)

    def _rearrange(self) -> None:
        """Drop the ended answers, take new ones from the queue, read their prompts."""
        keep = self.alive.nonzero().squeeze(-1)
        old = self.cache
        rows = self.rows[keep]
        new = [self.waiting.popleft() for _ in range(min(len(self.waiting), self.todo.places - rows.numel()))]
        device = rows.device
        held = sorted({self.todo.prompt_of[a] for a in rows.tolist()}, key=self.active.index)
        fresh = list(dict.fromkeys(p for p in (self.todo.prompt_of[a] for a in new) if p not in held))
        kept = torch.tensor([self.active.index(p) for p in held], dtype=torch.long, device=device)
        self.active = held + fresh
        number = {p: i for i, p in enumerate(self.active)}
        self.rows = torch.cat([rows, torch.tensor(new, dtype=torch.long, device=device)])
        self.alive = torch.ones(self.rows.numel(), dtype=torch.bool, device=device)
        if not self.rows.numel():
            return
        read, ends = self._read(fresh) if fresh else ({}, self.ends[:0])
        self.ends = torch.cat([self.ends[kept], ends]) if held else ends
        width = max(len(self.todo.prompts[p]) for p in self.active)
        prompts: Layers = {}
        answers: Layers = {}
        for layer in read or (old.prompts if old else {}):
            pair, own = [], []
            for side in (0, 1):
                parts = [widened(old.prompts[layer][side][:, kept], width)] if old and held else []
                parts += [widened(read[layer][side], width)] if fresh else []
                x = beside(parts)
                going_on = old.answers[layer][side][:, keep] if old and keep.numel() else x[:, :0, :0]
                places = self.rows.numel() - keep.numel()
                mine = F.pad(going_on, (0, 0, 0, 0, 0, places))
                pair.append(x)
                own.append(mine)
            prompts[layer], answers[layer] = (pair[0], pair[1]), (own[0], own[1])
        done = torch.zeros(self.rows.numel(), dtype=torch.long, device=device)
        prompt_of = torch.tensor([number[self.todo.prompt_of[a]] for a in self.rows.tolist()], device=device)
        hidden = self.ends[prompt_of]
        if old and keep.numel():
            done[: keep.numel()], hidden[: keep.numel()] = old.done[keep], self.hidden[keep]
        self.hidden = hidden
        lengths = torch.tensor([len(self.todo.prompts[p]) for p in self.active], device=device)
        self.cache = Decode(prompts, lengths, prompt_of, answers, done)

    def _read(self, prompts: list[int]) -> tuple[Layers, Tensor]:
        """Caches [heads, prompts, width, D] and the hidden state [prompts, H] at each prompt's last token."""
        width = max(len(self.todo.prompts[p]) for p in prompts)
        budget = self.engine.settings.tokens_per_microbatch
        lots: list[list[int]] = [[]]
        for p in prompts:
            if lots[-1] and sum(len(self.todo.prompts[x]) for x in (*lots[-1], p)) > budget:
                lots.append([])
            lots[-1].append(p)
        caches, ends = [], []
        for lot in lots:
            plan = Prefill([len(self.todo.prompts[p]) for p in lot])
            ids = torch.tensor([i for p in lot for i in self.todo.prompts[p]], device=self.rows.device)
            states = self.states(ids[None], plan.position[None].to(ids.device), plan)
            ends.append(states[0, plan.ends.to(ids.device)])
            caches.append(plan.padded(width))
        joined = {
            layer: (beside([c[layer][0] for c in caches]), beside([c[layer][1] for c in caches]))
            for layer in caches[0]
        }
        return joined, torch.cat(ends)
