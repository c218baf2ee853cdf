"""Keys and values while decoding: a prompt's once for all its answers, an answer's own beside it.

Both are attention plans, so they work for every network that follows one. Heads come first, so that the
answers of a prompt are rows beside each other, and the answers' caches grow as they do: a CPU reads memory
without gaps several times as fast as with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rewardlab.models.attention import Forest, Tree

Layers = dict[int, tuple[Tensor, Tensor]]
"""Keys and values by the number of the layer."""
BLOCK = 16
"""Tokens by which the answers' caches grow."""


def kept(x: Tensor) -> Tensor:
    """In the precision of the cache: at least fp32 on the CPU, whose kernels are faster and more exact in it;
    elsewhere that of the matrix products."""
    device = x.device.type
    if device == "cpu":
        return x.to(torch.promote_types(x.dtype, torch.float32))
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def beside(parts: Sequence[Tensor]) -> Tensor:
    """Keys [heads, rows, X, D] of several lots of rows as one; of one alone no copy is made."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def widened(x: Tensor, width: int) -> Tensor:
    """Zeros behind the keys [heads, rows, X, D] up to a width, or what is beyond it cut."""
    if x.shape[2] == width:
        return x
    more = x.new_zeros(*x.shape[:2], max(width - x.shape[2], 0), x.shape[3])
    return torch.cat([x[:, :, :width], more], 2)


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
        self.layers[layer] = kept(k[0]), kept(v[0])
        return self._forest.attend(layer, q, k, v, scale, window)

    def padded(self, width: int) -> Layers:
        """[heads, prompts, width, D] of every layer, zero behind a prompt's end; the plan gives them away."""
        found = {}
        for layer in list(self.layers):
            k, v = self.layers.pop(layer)
            found[layer] = self._pad(k, width), self._pad(v, width)
        return found

    def _pad(self, x: Tensor, width: int) -> Tensor:
        found = x.new_zeros(x.shape[0], len(self.lengths), width, x.shape[-1])
        for i, (start, n) in enumerate(zip(self._starts, self.lengths, strict=True)):
            found[:, i, :n] = x[:, start : start + n]
        return found


class Decode:
    """One more token for each of R answers to G prompts."""

    def __init__(self, prompts: Layers, lengths: Tensor, prompt_of: Tensor, answers: Layers, done: Tensor):
        """Caches [heads, G, P, D] and [heads, R, C, D]; Long[G] tokens of each prompt; Long[R] the prompt of
        each answer; Long[R] tokens of each answer whose keys are already there."""
        self.prompts, self.lengths, self.prompt_of = prompts, lengths, prompt_of
        self.answers, self.done = answers, done
        self._rows = torch.arange(prompt_of.numel(), device=prompt_of.device)
        self._gather()

    def _gather(self) -> None:
        """Where the answers of each prompt are: `slots` Long[G * n], `place` Long[R] in it."""
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
        held = next(iter(self.answers.values()))[0].shape[2]
        if self._end > held:
            more = -held % BLOCK or BLOCK
            held += more
            for layer, (k, v) in self.answers.items():
                self.answers[layer] = widened(k, held), widened(v, held)
        width = next(iter(self.prompts.values()))[0].shape[2]
        device = self.done.device
        columns = torch.arange(held, device=device)
        column = torch.arange(width, device=device)
        given = column[None] >= self.lengths[:, None]
        self._own_mask = None if self._together else (columns[None] > self.done[:, None])[:, None]
        self._prompt_mask = given[self.prompt_of][:, None] if bool(given.any()) else None

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None
    ) -> Tensor:
        """[R, heads, 1, D]: the softmax runs over the prompt's keys and the answer's own together."""
        dtype = q.dtype
        q, k, v = kept(q), kept(k), kept(v)
        # Autocast would convert the whole cache at every step.
        with torch.autocast(q.device.type, enabled=False):
            return self._attend(layer, q, k, v, scale, window).to(dtype)

    def _attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float | None, window: int | None
    ) -> Tensor:
        keys, values = self.answers[layer]
        prompt_keys, prompt_values = self.prompts[layer]
        k, v = k[:, :, 0].transpose(0, 1), v[:, :, 0].transpose(0, 1)
        if self._together:
            keys[:, :, self._end - 1], values[:, :, self._end - 1] = k, v
        else:
            keys[:, self._rows, self.done], values[:, self._rows, self.done] = k, v
        rows, heads, _, size = q.shape
        kv = keys.shape[0]
        # Query heads that share a key head stand beside each other: [kv, R, heads / kv, D].
        q = q.reshape(rows, kv, -1, size).transpose(0, 1).contiguous()
        q = q * (size**-0.5 if scale is None else scale)
        own = q @ keys.transpose(-1, -2)
        given = self._per_answer(self._per_prompt(q) @ prompt_keys.transpose(-1, -2), heads // kv)
        if self._own_mask is None:
            own[..., self._end :] = -torch.inf
        else:
            own.masked_fill_(self._own_mask, -torch.inf)
        if self._prompt_mask is not None:
            given.masked_fill_(self._prompt_mask, -torch.inf)
        if window is not None and window <= int(self.position.max()):
            self._cut(own, given, window)
        weights = torch.cat([given, own], -1).softmax(-1, dtype=torch.float32).to(values.dtype)
        split = given.shape[-1]
        theirs = self._per_answer(self._per_prompt(weights[..., :split]) @ prompt_values, heads // kv)
        seen = torch.baddbmm(theirs.flatten(0, 1), weights[..., split:].flatten(0, 1), values.flatten(0, 1))
        return seen.unflatten(0, (kv, rows)).transpose(0, 1).reshape(rows, heads, 1, size)

    def _per_prompt(self, x: Tensor) -> Tensor:
        """[kv, R, r, X] -> [kv, G, n * r, X]: the rows of a prompt beside each other."""
        x = x if self._aligned else x[:, self._slots]
        return x.reshape(x.shape[0], -1, self._width * x.shape[2], x.shape[3])

    def _per_answer(self, x: Tensor, shared: int) -> Tensor:
        """The way back."""
        x = x.reshape(x.shape[0], -1, shared, x.shape[3])
        return x if self._aligned else x[:, self._place]

    def _cut(self, own: Tensor, given: Tensor, window: int) -> None:
        """-inf where a key is `window` tokens or more behind."""
        at = self.position[:, None]
        start = self.lengths[self.prompt_of][:, None]
        columns = torch.arange(own.shape[-1], device=own.device)[None]
        column = torch.arange(given.shape[-1], device=given.device)[None]
        own.masked_fill_((at - (start + columns) >= window)[:, None], -torch.inf)
        given.masked_fill_((at - column >= window)[:, None], -torch.inf)
