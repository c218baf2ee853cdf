"""One token from each row of logits by one uniform number: inverse-CDF sampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 256
"""Tokens whose probabilities are summed up together; the place is then found within one such block."""


def draw(logits: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Long[R] token and Float[R] log-prob from logits [R, V] and uniforms Float[R] in [0, 1).

    The first token whose cumulative probability under softmax(logits / temperature) exceeds u; sums of
    probabilities are in fp64. Temperature 0 takes the most likely token, with its log-prob at temperature 1.
    """
    z = logits.float()
    if temperature not in (0.0, 1.0):
        z = z / temperature
    p = z.softmax(-1)
    rows, size = p.shape
    if size % BLOCK:
        p = F.pad(p, (0, BLOCK - size % BLOCK))
    blocks = p.view(rows, -1, BLOCK)
    sums = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    total = sums[:, -1:]
    if temperature == 0:
        token = z.argmax(-1)
    else:
        target = uniform.double()[:, None] * total
        block = torch.searchsorted(sums, target, right=True).clamp_(max=sums.shape[1] - 1)
        before = torch.where(block > 0, sums.gather(1, (block - 1).clamp(min=0)), 0.0)
        inner = blocks.gather(1, block[..., None].expand(-1, 1, BLOCK)).squeeze(1).double().cumsum(-1)
        within = torch.searchsorted(inner, target - before, right=True).clamp_(max=BLOCK - 1)
        token = (block * BLOCK + within).squeeze(1).clamp_(max=size - 1)
        # Rounding at the very end of the line may point behind the last token with any probability.
        bad = p.gather(1, token[:, None]).squeeze(1) == 0
        if bool(bad.any()):
            token = torch.where(bad, z.argmax(-1), token)
    # The sum takes back what the softmax's own sum, in fp32, was off by.
    logp = (p.gather(1, token[:, None]).double() / total).log()
    return token, logp.squeeze(1).float()
