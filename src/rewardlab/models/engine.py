"""The engine: from a flat batch to flat log-probs, entropies and scores; layouts stay hidden behind it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from peft import PeftModel
from torch import Tensor, nn

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.core.settings import Settings
from rewardlab.models.head import token_logprobs
from rewardlab.models.layouts import LAYOUTS, LayoutName
from rewardlab.models.loading import Model


class EngineSettings(Settings):
    """How batches are computed. None of these changes a result beyond rounding."""

    layout: LayoutName = "padded"
    """`padded`: rows of similar length; `packed`: one row with a block-diagonal mask."""
    tokens_per_microbatch: int = 2048
    """Upper bound of tokens (padding included) in one forward pass; a longer sequence goes alone."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Autocast precision of the backbone. Weights, heads' soft-max and reductions stay fp32."""


class Engine:
    """A model, and how to compute with it."""

    def __init__(self, model: Model, settings: EngineSettings | None = None) -> None:
        self.model = model
        self.settings = settings or EngineSettings()

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The trainable parameters by name."""
        return {k: p for k, p in self.model.net.named_parameters() if p.requires_grad}

    def autocast(self) -> AbstractContextManager[None]:
        """The precision context of every forward pass, shared with the sampler."""
        enabled = self.settings.precision == "bf16"
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=enabled)

    def hidden(self, batch: Batch) -> Tensor:
        """Float[T, H]: the backbone's last hidden state of every token."""
        layout = LAYOUTS[self.settings.layout](batch)
        with self.autocast():
            out = self.model.hf.base_model(
                input_ids=layout.input_ids,
                attention_mask=layout.attention_mask,
                position_ids=layout.position_ids,
                use_cache=False,
            )
        states: Tensor = out.last_hidden_state
        return states.flatten(0, 1)[layout.index]

    def logprobs(
        self,
        batch: Batch,
        *,
        entropy: bool = False,
        mean: bool = False,
        vocabulary: bool = False,
        value_head: nn.Linear | None = None,
    ) -> Outputs:
        """Flat log-probs (and entropies) of the actions; zero at other tokens.

        `logp[t]` is log p(ids[t] | its sequence before t) at the token's recorded temperature. `mean` adds
        `logp_mean` (label smoothing reads it). `vocabulary` adds `slice_logp` at the batch's `slice_ids`, or
        over the whole vocabulary where it has none (distillation reads it). `value_head` adds `values`, what
        this head makes of the same hidden states, in fp32.
        """
        batch = batch.to(self.model.device)
        at = batch.action.nonzero().squeeze(-1)
        temperature = batch.streams.get("temperature")
        if temperature is not None:
            temperature = temperature[at]
        hidden = self.hidden(batch)[at - 1]
        slice_ids: Tensor | Literal["all"] | None = None
        if vocabulary:
            slice_ids = batch.action_streams.get("slice_ids", "all")
        with self.autocast():
            found = token_logprobs(
                self.model.hf,
                hidden,
                batch.ids[at],
                temperature,
                entropy=entropy,
                mean=mean,
                slice_ids=slice_ids,
            )
        zeros = torch.zeros(batch.ids.numel(), device=found.logp.device)

        def spread(x: Tensor | None) -> Tensor | None:
            return None if x is None else zeros.index_put((at,), x)

        return Outputs(
            logp=spread(found.logp),
            entropy=spread(found.entropy),
            logp_mean=spread(found.mean),
            slice_logp=found.slice,
            values=None if value_head is None else spread(value_head(hidden.float()).squeeze(-1)),
        )

    def scores(self, batch: Batch) -> Outputs:
        """Reward head at each sequence's last real token, found by length; fp32."""
        batch = batch.to(self.model.device)
        last = self.hidden(batch)[batch.offsets[1:] - 1]
        return Outputs(scores=self.model.hf.score(last.float()).float().squeeze(-1))

    def token_scores(self, batch: Batch) -> Outputs:
        """Reward head at every token, not only the last; fp32."""
        hidden = self.hidden(batch.to(self.model.device))
        return Outputs(token_scores=self.model.hf.score(hidden.float()).float().squeeze(-1))

    def values(self, batch: Batch) -> Outputs:
        """Reward head as a critic: `values[t]` is its output at token t - 1, the state in which action t was
        chosen; 0 outside actions."""
        batch = batch.to(self.model.device)
        return Outputs(values=before_actions(given(self.token_scores(batch).token_scores), batch))

    def split(self, batch: Batch) -> list[list[int]]:
        """The sequences of each forward pass: pairs together, similar lengths together, longest first."""
        members: dict[int, list[int]] = {i: [i] for i in range(batch.size)}
        for a, b in batch.pairs.tolist():
            if members[a] is not members[b]:
                members[a].extend(members[b])
                for i in members[b]:
                    members[i] = members[a]
        units = list({id(m): m for m in members.values()}.values())
        lengths = batch.lengths.tolist()
        units.sort(key=lambda unit: -max(lengths[i] for i in unit))
        passes: list[list[int]] = [[]]
        width = 0
        for unit in units:
            width = max([width, *(lengths[i] for i in unit)])
            if passes[-1] and width * (len(passes[-1]) + len(unit)) > self.settings.tokens_per_microbatch:
                passes.append([])
                width = max(lengths[i] for i in unit)
            passes[-1].extend(unit)
        return passes

    def microbatches(self, batch: Batch) -> Iterator[Batch]:
        """The forward passes of one step."""
        return (batch.select(rows) for rows in self.split(batch))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """No gradient and no dropout."""
        was_training = self.model.net.training
        self.model.net.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.net.train(was_training)

    def frozen_logprobs(self, batch: Batch, *, entropy: bool = False) -> Outputs:
        """Log-probs (and entropies) of a whole batch without gradient, on the CPU."""
        logp = torch.zeros(batch.ids.numel())
        ent = torch.zeros(batch.ids.numel())
        with self.frozen():
            for rows in self.split(batch):
                out = self.logprobs(batch.select(rows), entropy=entropy)
                at = batch.tokens_of(rows)
                logp[at] = given(out.logp).cpu()
                if entropy:
                    ent[at] = given(out.entropy).cpu()
        return Outputs(logp=logp, entropy=ent if entropy else None)

    def frozen_tokens(self, batch: Batch, compute: Callable[[Batch], Tensor | None]) -> Tensor:
        """Float[T]: what `compute` gives per token, for a whole batch without gradient, on the CPU."""
        found = torch.zeros(batch.ids.numel())
        with self.frozen():
            for rows in self.split(batch):
                found[batch.tokens_of(rows)] = given(compute(batch.select(rows))).cpu()
        return found

    def frozen_scores(self, batch: Batch) -> Tensor:
        """Float[N]: reward scores of a whole batch without gradient, on the CPU."""
        scores = torch.zeros(batch.size)
        with self.frozen():
            for rows in self.split(batch):
                scores[rows] = given(self.scores(batch.select(rows)).scores).cpu()
        return scores


def before_actions(x: Tensor, batch: Batch) -> Tensor:
    """Float[T]: at each action what x is at the token before it, the state it was chosen in; else 0."""
    return torch.where(batch.action, x.roll(1), torch.zeros_like(x))


class Reference:
    """The policy as it was when this was made: the adapters switched off, else a frozen copy."""

    def __init__(self, engine: Engine) -> None:
        self._live = engine
        self._adapters = isinstance(engine.model.net, PeftModel)
        self._engine = engine
        if not self._adapters:
            net = copy.deepcopy(engine.model.net).requires_grad_(False)
            self._engine = Engine(Model(net, engine.model.tokenizer, engine.model.source), engine.settings)

    def logprobs(self, batch: Batch) -> Tensor:
        """Float[T], without gradient."""
        net = self._live.model.net
        off = net.disable_adapter() if isinstance(net, PeftModel) else nullcontext()
        with off:
            return given(self._engine.frozen_logprobs(batch).logp)

    def distributions(self, batch: Batch) -> Tensor:
        """Float[A, V]: log-probs over the vocabulary at each action, without gradient; for a micro-batch."""
        net = self._live.model.net
        off = net.disable_adapter() if isinstance(net, PeftModel) else nullcontext()
        with off, self._engine.frozen():
            return given(self._engine.logprobs(batch, vocabulary=True).slice_logp)
