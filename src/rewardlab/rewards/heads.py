"""Several small heads on one frozen trunk: K values from one forward pass, fitted on stored states."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.core.types import Sequence as Tokens
from rewardlab.models.engine import Engine
from rewardlab.rewards.reading import Reader, last_states, score_readable


class Heads(nn.Module):
    """K named functions of a hidden state h of width H; h is standardised first.

    rank 0: v_k = w_k . h + b_k. rank r > 0 adds u_k . gelu(A_k h), A_k [r, H]: a low-rank adapter of the
    state per head. The adapters' outputs u start at zero, w at standard deviation 1 / H, all drawn from
    `seed`.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, width: int, names: Sequence[str], *, rank: int = 0, seed: int = 0) -> None:
        super().__init__()
        if not names or len(set(names)) < len(names):
            raise UserError(f"heads named {list(names)}.", "Give each head a name of its own.")
        self.names, self.rank = tuple(names), rank
        generator = torch.Generator().manual_seed(seed)
        k = len(self.names)
        self.weight = nn.Parameter(torch.randn(k, width, generator=generator) / width)
        self.bias = nn.Parameter(torch.zeros(k))
        self.down = nn.Parameter(torch.randn(k, rank, width, generator=generator) / width**0.5)
        self.up = nn.Parameter(torch.zeros(k, rank))
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def forward(self, states: Tensor) -> Tensor:
        """Float[N, H] -> Float[N, K]."""
        h = (states - self.centre) / self.scale
        values = h @ self.weight.T + self.bias
        if self.rank:
            inner = nn.functional.gelu(torch.einsum("nh,krh->nkr", h, self.down))
            values = values + (inner * self.up).sum(-1)
        return values

    def standardise(self, states: Tensor) -> None:
        """Take mean and standard deviation from these states Float[N, H]; constant features keep scale 1."""
        self.centre.copy_(states.mean(0))
        spread = states.std(0, unbiased=False)
        self.scale.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))


def fit(
    heads: Heads,
    loss: Callable[[], Tensor],
    *,
    steps: int = 300,
    learning_rate: float = 0.01,
    decay: float = 1e-2,
) -> float:
    """Minimise `loss()` + decay * |parameters|^2 by Adam on all data at once; returns the last loss.

    Full-batch, so nothing is drawn. Heads share no parameter: in a sum of per-head losses each is fitted
    as if alone.
    """
    adam = torch.optim.Adam(heads.parameters(), lr=learning_rate)
    last = float("nan")
    for _ in range(steps):
        adam.zero_grad(set_to_none=True)
        found = loss()
        total = found + decay * sum(((p**2).sum() for p in heads.parameters()), torch.zeros(()))
        total.backward()  # type: ignore[no-untyped-call]
        adam.step()
        last = float(found.detach())
    adam.zero_grad(set_to_none=True)
    return last


def save_heads(heads: Heads, folder: Path) -> None:
    """heads.safetensors and heads.json in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in heads.state_dict().items()}, folder / "heads.safetensors")
    (folder / "heads.json").write_text(json.dumps({"names": heads.names, "rank": heads.rank}))


def load_heads(folder: Path) -> Heads:
    """The heads that `save_heads` wrote."""
    facts = json.loads((folder / "heads.json").read_text())
    tensors = load_file(folder / "heads.safetensors")
    heads = Heads(tensors["weight"].shape[1], facts["names"], rank=facts["rank"])
    heads.load_state_dict(tensors)
    return heads.requires_grad_(False)


class HeadsReader:
    """The values of all heads for each rollout; what to make of them is the reward's business."""

    def __init__(
        self, engine: Engine, heads: Heads, *, max_tokens: int | None = None, reads_ids: bool = False
    ):
        self.engine, self.heads = engine, heads.requires_grad_(False)
        self.read = Reader(engine.model.tokenizer, max_tokens, reads_ids)
        width = int(engine.model.hf.config.get_text_config().hidden_size)
        if heads.centre.numel() != width:
            raise UserError(
                f"heads for states of width {heads.centre.numel()} on a trunk of width {width}.",
                "Name the model that the heads were fitted on.",
            )

    def score(self, rollouts: Sequence[Rollout], join: Callable[[dict[str, float]], Score]) -> list[Score]:
        """`join` of the heads' values by name, for each rollout; a value that is not finite is an error."""

        def scores(rows: list[Tokens]) -> list[Score]:
            states = last_states(self.engine, rows)
            found = self.heads(states)
            return [
                join(dict(zip(self.heads.names, row.tolist(), strict=True)))
                if bool(row.isfinite().all())
                else Score.error("a head gave a value that is not finite")
                for row in found
            ]

        return score_readable(rollouts, self.read, scores)
