"""How much memory a training step needs, before it is taken, and what to switch on where that is too much.

The estimate is for dense Llama-like networks in the padding-free layouts, one device, AdamW, fp32 weights.
`python benchmarks/memory_plan.py` prints it beside what was measured: 0.90 to 1.23 times what the tensors
hold, 0.51 to 0.80 times what the CPU's heap takes for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from rewardlab.core.batch import Batch
from rewardlab.models.engine import Engine
from rewardlab.models.head import LOGITS_KEPT, LOGITS_PER_CHUNK
from rewardlab.models.layouts import LAYOUTS

OptimiserState = Literal["fp32", "8bit", "offloaded"]
STATE_BYTES: dict[OptimiserState, float] = {"fp32": 8.0, "8bit": 2 + 8 / 256, "offloaded": 0.0}
"""Of AdamW's two moments, per parameter; 8 bit: a byte each and a scale per block of 256; offloaded:
none on the GPU."""
SHARE = {"cuda": 0.9, "cpu": 0.45}
"""Part of the free memory that a plan may fill. On the CPU the heap takes up to about twice what the tensors
on it hold, for freed blocks of one size do not always fit the next."""
GIB = 2**30


@dataclass(frozen=True)
class Network:
    """What of a network decides its memory."""

    trainable: int
    """Parameters with a gradient."""
    frozen: int
    largest: int
    """Elements of the largest parameter with a gradient."""
    hidden: int
    layers: int
    intermediate: int
    """Width of the MLP."""
    queries: int
    """Heads times their size."""
    keys: int
    """Key-value heads times their size."""
    vocabulary: int
    """0 for a network with a reward head."""
    normed: bool = False
    """Queries and keys are normalised."""

    @staticmethod
    def of(net: nn.Module, hf: Any) -> Network:
        """Of a network with its adapters, on any device, `meta` too; `hf` is the transformers model in it."""
        config = hf.config.get_text_config()
        sizes = [(p.numel(), p.requires_grad) for p in net.parameters()]
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return Network(
            trainable=sum(n for n, grad in sizes if grad),
            frozen=sum(n for n, grad in sizes if not grad),
            largest=max((n for n, grad in sizes if grad), default=0),
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            queries=heads * size,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * size,
            vocabulary=0 if hf.get_output_embeddings() is None else config.vocab_size,
            normed=any(name.endswith("q_norm") for name, _ in hf.named_modules()),
        )


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes at the peak of a training step, and the options that they are for."""

    weights: int
    gradients: int
    """The sums over micro-batches, and the largest gradient once more before it is added."""
    optimiser: int
    activations: int
    """What the forward pass keeps for the backward pass, and what a layer's backward needs for itself."""
    logits: int
    gradient_checkpointing: bool
    optimiser_state: OptimiserState

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimiser + self.activations + self.logits

    @property
    def options(self) -> tuple[str, ...]:
        """What a recipe has to say for this plan."""
        named = {
            "gradient_checkpointing": self.gradient_checkpointing,
            f"optimiser.state={self.optimiser_state}": self.optimiser_state != "fp32",
        }
        return tuple(name for name, on in named.items() if on)


def plan_memory(
    network: Network,
    *,
    tokens: int,
    actions: int | None = None,
    gradient_checkpointing: bool = False,
    optimiser_state: OptimiserState = "fp32",
    precision: Literal["fp32", "bf16"] = "fp32",
    logits_kept: int = LOGITS_KEPT,
    logits_per_chunk: int = LOGITS_PER_CHUNK,
) -> MemoryPlan:
    """The peak of a step of at least two micro-batches of `tokens` tokens, `actions` of them trained on.

    A layer keeps per token: of each of its two norms the input, the normalised and the scaled; queries, keys,
    values and the attention's output, as they attend and as the next product reads it; of the MLP the gate,
    its activation, the other factor and the product. With checkpointing only each layer's input stays, and
    one layer at a time has all of that. The logits are kept up to `logits_kept`, else made in chunks. In bf16
    the products' inputs have two bytes, and the weights are there once more in two bytes.
    """
    n, half = network, precision == "bf16"
    product = 2 if half else 4  # bytes of what a matrix product reads and gives
    layer = 2 * n.hidden * (8 + product) + 4 * n.intermediate * product
    layer += 4 * (2 * n.queries + 2 * n.keys) + n.queries * product
    if n.normed:
        layer += 8 * (n.queries + n.keys)
    backward = product * 3 * n.intermediate + 4 * 2 * n.hidden
    kept = 4 * n.hidden * n.layers + layer if gradient_checkpointing else layer * n.layers
    copies = 2 * (n.trainable + n.frozen) if half else 0
    head = 3 * 4 * n.hidden
    positions = (tokens if actions is None else actions) * n.vocabulary
    logits = positions * product if positions <= logits_kept else logits_per_chunk * product
    return MemoryPlan(
        weights=4 * (n.trainable + n.frozen),
        gradients=4 * (n.trainable + n.largest),
        optimiser=round(STATE_BYTES[optimiser_state] * n.trainable),
        activations=tokens * (kept + backward + head) + copies,
        logits=logits,
        gradient_checkpointing=gradient_checkpointing,
        optimiser_state=optimiser_state,
    )


def plans(network: Network, **sizes: Any) -> list[MemoryPlan]:
    """Plans from the fastest to the smallest: nothing, checkpointing, and 8-bit optimiser state too."""
    levels: list[tuple[bool, OptimiserState]] = [(False, "fp32"), (True, "fp32"), (True, "8bit")]
    return [
        plan_memory(network, gradient_checkpointing=on, optimiser_state=state, **sizes)
        for on, state in levels
    ]


def to_fit(limit: int, network: Network, **sizes: Any) -> MemoryPlan | None:
    """The first of `plans` whose total is within `limit` bytes; None where none is.

    What then helps is `lora`, or fewer `tokens_per_microbatch`. `sizes` are those of `plan_memory`.
    """
    return next((plan for plan in plans(network, **sizes) if plan.total <= limit), None)


def room(device: torch.device) -> int | None:
    """Bytes that a plan may fill on a device; None where that is not known."""
    free = free_memory(device)
    return None if free is None else round(SHARE.get(device.type, min(SHARE.values())) * free)


def settle(engine: Engine, batch: Batch, optimiser_state: OptimiserState) -> None:
    """Switch checkpointing on where the setting is `auto` and the passes of such a batch need it."""
    s, hf = engine.settings, engine.model.hf
    if s.gradient_checkpointing != "auto" or not hf.supports_gradient_checkpointing:
        return
    passes = [batch.select(rows) for rows in engine.split(batch)]
    # As they are laid out: a prompt that answers share is there once.
    sizes = [(LAYOUTS[engine.layout(p)](p).input_ids.numel(), int(p.action.sum())) for p in passes]
    tokens = max(s.tokens_per_microbatch, *(n for n, _ in sizes))
    plan = plan_memory(
        Network.of(engine.model.net, hf),
        tokens=tokens,
        actions=max(tokens * actions // n for n, actions in sizes),
        optimiser_state=optimiser_state,
        precision=s.precision,
    )
    limit = room(engine.model.device)
    if limit is not None and plan.total - plan.weights > limit:  # the weights are there already
        engine.checkpoint_layers()


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process could still take: of the GPU, or of the machine and the container it is in."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        return min(free, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return free
