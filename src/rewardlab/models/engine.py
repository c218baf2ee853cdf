"""The engine: from a flat batch to flat log-probs, entropies and scores; layouts stay hidden behind it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn

from rewardlab.core.batch import Batch, Outputs, given
from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings
from rewardlab.models import attention
from rewardlab.models.allocator import keep_freed_memory
from rewardlab.models.attention import Causal, Plan
from rewardlab.models.head import token_logprobs
from rewardlab.models.layouts import LAYOUTS, Layout, LayoutName
from rewardlab.models.loading import Model
from rewardlab.models.packing import packed_linears
from rewardlab.models.passes import choose, split
from rewardlab.models.trunk import Trunk, packing

ROWS = 64
"""On the CPU, bf16 products keep code of about a MiB for every number of rows that they have seen; so that
they do not see every number, rows come in multiples of this."""


class EngineSettings(Settings):
    """How batches are computed. None of these changes a result beyond rounding."""

    layout: LayoutName = "auto"
    """`padded`: a row per sequence; `packed`: no padding; `tree`: also shared prompts only once; `auto`: tree
    where it saves work, else packed, and padded for networks whose attention cannot be told who sees whom."""
    tokens_per_microbatch: int = 3072
    """Upper bound of tokens (padding included) in one forward pass; a longer sequence goes alone. Where a
    shared prompt fills more than half of it, a pass of its answers may reach 1.5 times the longest sequence,
    since every pass computes the prompt again."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Autocast precision of the backbone. Weights, heads' soft-max and reductions stay fp32."""
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    """Keep each layer's input only and compute the rest again in the backward pass (Chen et al. 2016, arXiv
    1604.06174): less memory for one more forward pass. `auto`: where the memory plan of the first batch does
    not fit into what is free."""


class Engine:
    """A model, and how to compute with it."""

    def __init__(self, model: Model, settings: EngineSettings | None = None) -> None:
        self.model = model
        self.settings = settings or EngineSettings()
        if model.device.type == "cpu":
            keep_freed_memory()
        if self.settings.gradient_checkpointing is True:
            self.checkpoint_layers()

    def checkpoint_layers(self) -> None:
        """Switch gradient checkpointing on; it takes effect in training mode, so never in a frozen pass."""
        hf = self.model.hf
        if not hf.supports_gradient_checkpointing:
            raise UserError(
                f"engine.gradient_checkpointing: {type(hf).__name__} does not support it.",
                "Leave it out, and lower `engine.tokens_per_microbatch` to save memory.",
            )
        hf.gradient_checkpointing_enable({"use_reentrant": False})

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The trainable parameters by name."""
        return {k: p for k, p in self.model.net.named_parameters() if p.requires_grad}

    def autocast(self) -> AbstractContextManager[None]:
        """The precision context of every forward pass, shared with the sampler."""
        enabled = self.dtype is torch.bfloat16
        return torch.autocast(self.model.device.type, torch.bfloat16, enabled=enabled)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the backbone's matrix products."""
        return torch.bfloat16 if self.settings.precision == "bf16" else torch.float32

    @cached_property
    def plans(self) -> bool:
        """Whether the network's attention follows a plan: it is tried once, on two short sequences.

        A network with attention of its own, a recurrence, or attention dropout does not; its batches are
        padded and masked as transformers does.
        """
        hf = self.model.hf
        config = hf.config.get_text_config()
        if getattr(config, "attention_dropout", 0.0):
            return False
        ids = torch.arange(7) % config.vocab_size
        batch = Batch(ids, torch.tensor([0, 4, 7]), torch.zeros(7, dtype=torch.bool)).to(self.model.device)
        exact = self._in_fp32()
        before = hf.config._attn_implementation
        with self.frozen():
            masked = exact._masked(batch)
            try:
                hf.set_attn_implementation(attention.NAME)
                planned = exact._backbone(LAYOUTS["packed"](batch))
                if _close(planned, masked):
                    return True
            except (TypeError, ValueError, RuntimeError):
                pass  # it takes no plan
        hf.set_attn_implementation(before)
        return False

    def states(self, ids: Tensor, position: Tensor, plan: Plan) -> Tensor:
        """Float[B, L, H]: the last hidden states of Long[B, L] ids at these positions, attending as planned.

        A mask of four axes is passed on untouched by transformers; no one reads it.
        """
        with self.autocast():
            out = self.model.hf.base_model(
                input_ids=ids,
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
                position_ids=position,
                use_cache=False,
                plan=plan,
            )
        states: Tensor = out.last_hidden_state
        return states

    @cached_property
    def fusable(self) -> bool:
        """Whether `Trunk` gives the network's own numbers; tried once, on a short sequence."""
        if not self.plans:
            return False
        ids = torch.arange(7, device=self.model.device)[None]
        exact = self._in_fp32()
        try:
            with self.frozen():
                found = Trunk(self.model.hf.base_model, torch.float32)(ids, ids, Causal())
                expected = exact.states(ids, ids, Causal())
        except (AttributeError, ValueError, RuntimeError):
            return False  # a network of another shape
        return _close(found, expected)

    @contextmanager
    def decoding(self) -> Iterator[Callable[[Tensor, Tensor, Plan], Tensor]]:
        """`states` for many passes with the same weights and no gradient: packed, fused where possible."""
        hf = self.model.hf
        fused = None
        if self.fusable:
            with suppress(ValueError):  # adapters
                fused = Trunk(hf.base_model, self.dtype, packing(self.dtype))
        rest = self.model.net if fused is None else hf.get_output_embeddings()
        with self.frozen(), self.autocast(), packed_linears(rest, self.dtype):
            yield fused or self.states

    def _in_fp32(self) -> Engine:
        """The same engine in fp32: in bf16 two right ways differ by more than a wrong one might."""
        exact = copy.copy(self)
        exact.settings = self.settings.model_copy(update={"precision": "fp32"})
        return exact

    @property
    def _multiple(self) -> int:
        """What the rows of a pass are filled up to a multiple of."""
        return ROWS if self.dtype is torch.bfloat16 and self.model.device.type == "cpu" else 1

    def _backbone(self, layout: Layout) -> Tensor:
        """Float[B * L, H] of a planned pass through the network's own forward."""
        return self.states(layout.input_ids, layout.position_ids, layout.plan).flatten(0, 1)

    def _masked(self, batch: Batch) -> Tensor:
        """Float[T, H] by padded rows and a mask, for any network."""
        return self._by_rows(batch, lambda out: [out.last_hidden_state])[0]

    def layer_states(self, batch: Batch, layers: Sequence[int]) -> list[Tensor]:
        """Float[T, H] for each of these layers: the hidden states of every token; 0 is the embedding."""
        batch = batch.to(self.model.device)
        return self._by_rows(batch, lambda out: [out.hidden_states[i] for i in layers], every_layer=True)

    def _by_rows(
        self, batch: Batch, pick: Callable[[Any], list[Tensor]], *, every_layer: bool = False
    ) -> list[Tensor]:
        layout = LAYOUTS["padded"](batch)
        columns = torch.arange(layout.input_ids.shape[1], device=batch.ids.device)
        with self.autocast():
            out = self.model.hf.base_model(
                input_ids=layout.input_ids,
                attention_mask=(columns[None] < batch.lengths[:, None]).long(),
                position_ids=layout.position_ids,
                use_cache=False,
                output_hidden_states=every_layer,
            )
        return [states.flatten(0, 1)[layout.index] for states in pick(out)]

    def layout(self, batch: Batch) -> LayoutName:
        """The layout that this batch will have."""
        if self.settings.layout != "auto":
            return self.settings.layout
        return choose(batch) if self.plans else "padded"

    def hidden(self, batch: Batch, at: Tensor | None = None) -> Tensor:
        """Float[T, H]: the backbone's last hidden state of every token, or of the flat positions `at`."""
        if not self.plans:
            states = self._masked(batch)
            return states if at is None else states[at]
        layout = LAYOUTS[self.layout(batch)](batch, self._multiple)
        index = layout.index if at is None else layout.index[at]
        if not self.fusable:
            return self._backbone(layout).index_select(0, index)
        hf, rows = self.model.hf, None if at is None else index
        again = hf.is_gradient_checkpointing and hf.training and torch.is_grad_enabled()
        trunk = Trunk(self.model.hf.base_model, self.dtype)  # each time: layers may have been changed
        with self.autocast():
            found = trunk(layout.input_ids, layout.position_ids, layout.plan, rows, again=again)
        return found.flatten(0, 1).index_select(0, index) if at is None else found

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
        actions = at.numel()
        slice_ids: Tensor | Literal["all"] | None = None
        if vocabulary:
            slice_ids = batch.action_streams.get("slice_ids", "all")
        elif actions:
            at = torch.cat([at, at[-1:].expand(-actions % self._multiple)])
        temperature = batch.streams.get("temperature")
        if temperature is not None:
            temperature = temperature[at]
        hidden = self.hidden(batch, at - 1)
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
            return None if x is None else zeros.index_put((at[:actions],), x[:actions])

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
        last = self.hidden(batch, batch.offsets[1:] - 1)
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
        """The sequences of each forward pass: pairs together, families together, longest first."""
        return split(batch, self.layout(batch), self.settings.tokens_per_microbatch)

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


def _close(x: Tensor, y: Tensor) -> bool:
    """Equal up to rounding in fp32."""
    return torch.allclose(x, y, rtol=1e-4, atol=1e-4 * float(y.abs().max()))


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
