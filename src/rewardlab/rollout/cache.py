"""Keys and values while decoding: a prompt's once for all its answers, an answer's own beside it.

Both are attention plans, so they work for every network that follows one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rewardlab.models.attention import Forest, Tree

Layers = dict[int, tuple[Tensor, Tensor]]
"""Keys and values by the number of the layer."""


def precise(x: Tensor) -> Tensor:
    """At least fp32 on the CPU, whose kernels are faster and more exact in it; as it is elsewhere."""
    return x.to(torch.promote_types(x.dtype, torch.float32)) if x.device.type == "cpu" else x


@dataclass
class Prefill:
    """Prompts end to end in one stream; what is computed of them is kept."""

    lengths: Sequence[int]
    layers: Layers = field(default_factory=dict)

    def __post_init__(self) -> None:
        starts = [sum(self.lengths[:i]) for i in range(len(self.lengths))]
        self.position = torch.cat([torch.arange(n) for n in self.lengths])
        self.ends = torch.tensor([s + n - 1 for s, n in zip(starts, self.lengths, strict=True)])
        self._starts = starts
        trees = [Tree(s, 0, s, (n,)) for s, n in zip(starts, self.lengths, strict=True)]
        self._forest = Forest(trees, self.position)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None
    ) -> Tensor:
        """Each prompt to itself."""
        self.layers[layer] = precise(k[0]), precise(v[0])
        return self._forest.attend(layer, q, k, v, scale, window)

    def padded(self, width: int) -> Layers:
        """[prompts, heads, width, D] of every layer, zero behind a prompt's end."""
        return {n: (self._pad(k, width), self._pad(v, width)) for n, (k, v) in self.layers.items()}

    def _pad(self, x: Tensor, width: int) -> Tensor:
        found = x.new_zeros(len(self.lengths), x.shape[0], width, x.shape[-1])
        for i, (start, n) in enumerate(zip(self._starts, self.lengths, strict=True)):
            found[i, :, :n] = x[:, start : start + n]
        return found


class Decode:
    """One more token for each of R answers to G prompts."""

    def __init__(self, prompts: Layers, lengths: Tensor, prompt_of: Tensor, answers: Layers, done: Tensor):
        """Caches [G, heads, P, D] and [R, heads, M, D]; Long[G] tokens of each prompt; Long[R] the prompt of
        each answer; Long[R] tokens of each answer whose keys are already there."""
        self.prompts, self.lengths, self.prompt_of = prompts, lengths, prompt_of
        self.answers, self.done = answers, done
        self._rows = torch.arange(prompt_of.numel(), device=prompt_of.device)
        self._gather()

    def _gather(self) -> None:
        """Where the answers of each prompt are: `slots` Long[G, n], `place` Long[R] in its flat form."""
        count = torch.bincount(self.prompt_of, minlength=self.lengths.numel())
        self._width = max(int(count.max()), 1)
        order = self.prompt_of.argsort(stable=True)
        first = count.cumsum(0) - count
        rank = torch.empty_like(self._rows)
        rank[order] = self._rows - first[self.prompt_of[order]]
        self._place = self.prompt_of * self._width + rank
        self._slots = self._rows.new_zeros(self.lengths.numel() * self._width)
        self._slots[self._place] = self._rows
        # Rows in the order of their prompts, equally many of each: a view does what a gather would.
        self._aligned = bool((self._place == self._rows).all()) and self._slots.numel() == self._rows.numel()

    @property
    def position(self) -> Tensor:
        """Long[R]: the place of the new tokens in their sequences."""
        return self.lengths[self.prompt_of] + self.done

    def prepare(self) -> None:
        """What all layers of this step share."""
        self._end = int(self.done.max()) + 1
        self._together = int(self.done.min()) + 1 == self._end
        width = next(iter(self.prompts.values()))[0].shape[2]
        device = self.done.device
        columns = torch.arange(self._end, device=device)
        column = torch.arange(width, device=device)
        own, given = columns[None] > self.done[:, None], column[None] >= self.lengths[:, None]
        self._own_mask = None if self._together else own[:, None, None]
        self._prompt_mask = given[self.prompt_of][:, None, None] if bool(given.any()) else None

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None
    ) -> Tensor:
        """[R, heads, 1, D]: the softmax runs over the prompt's keys and the answer's own together."""
        dtype = q.dtype
        q, k, v = precise(q), precise(k), precise(v)
        keys, values = self.answers[layer]
        if self._together:
            keys[:, :, self._end - 1], values[:, :, self._end - 1] = k[:, :, 0], v[:, :, 0]
        else:
            keys[self._rows, :, self.done], values[self._rows, :, self.done] = k[:, :, 0], v[:, :, 0]
        keys, values = keys[:, :, : self._end], values[:, :, : self._end]
        prompt_keys, prompt_values = self.prompts[layer]
        rows, heads, _, size = q.shape
        kv = keys.shape[1]
        # Query heads that share a key head stand beside each other: [R, kv, heads / kv, D].
        q = q.reshape(rows, kv, heads // kv, size) * (size**-0.5 if scale is None else scale)
        own = q @ keys.transpose(-1, -2)
        given = self._per_answer(self._per_prompt(q) @ prompt_keys.transpose(-1, -2), heads // kv)
        if self._own_mask is not None:
            own = own.masked_fill(self._own_mask, -torch.inf)
        if self._prompt_mask is not None:
            given = given.masked_fill(self._prompt_mask, -torch.inf)
        if window is not None and window <= int(self.position.max()):
            own, given = self._within(own, given, window)
        weights = torch.cat([given, own], -1).softmax(-1)
        split = given.shape[-1]
        mine = weights[..., split:] @ values
        theirs = self._per_answer(self._per_prompt(weights[..., :split]) @ prompt_values, heads // kv)
        return (mine + theirs).reshape(rows, heads, 1, size).to(dtype)

    def _per_prompt(self, x: Tensor) -> Tensor:
        """[R, kv, r, X] -> [G, kv, n * r, X]: the rows of a prompt beside each other."""
        x = x if self._aligned else x[self._slots]
        x = x.reshape(-1, self._width, *x.shape[1:]).transpose(1, 2)
        return x.flatten(2, 3)

    def _per_answer(self, x: Tensor, shared: int) -> Tensor:
        """The way back."""
        x = x.unflatten(2, (self._width, shared)).transpose(1, 2).flatten(0, 1)
        return x if self._aligned else x[self._place]

    def _within(self, own: Tensor, given: Tensor, window: int) -> tuple[Tensor, Tensor]:
        """-inf where a key is `window` tokens or more behind."""
        at = self.position[:, None]
        start = self.lengths[self.prompt_of][:, None]
        columns = torch.arange(own.shape[-1], device=own.device)[None]
        column = torch.arange(given.shape[-1], device=given.device)[None]
        far_own = at - (start + columns) >= window
        far_given = at - column >= window
        return (
            own.masked_fill(far_own[:, None, None], -torch.inf),
            given.masked_fill(far_given[:, None, None], -torch.inf),
        )
