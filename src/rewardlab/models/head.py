"""Log-probs and entropies from hidden states, at the action positions only.

The vocabulary projection is done in chunks of tokens and recomputed in backward, so the [tokens, V]
matrix of logits is never held whole. Projection in the network's precision, soft-max in fp32.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_PER_CHUNK = 1 << 24
"""At most this many logits at once: 64 MiB in fp32."""


def logits_of(hf: Any, hidden: Tensor) -> Tensor:
    """Float[..., V] in fp32, with the final multipliers and soft-cap that some families have.

    Gemma: cap * tanh(logits / cap). Cohere: logits * logit_scale. Granite: logits / logits_scaling.
    """
    head = hf.get_output_embeddings()
    logits: Tensor = head(hidden).float()
    config = hf.config
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits


class HeadOutputs(NamedTuple):
    """What the head makes of A positions; None where it was not asked for."""

    logp: Tensor
    """Float[A]: log p(target)."""
    entropy: Tensor | None
    """Float[A]: -sum p log p, nats."""
    mean: Tensor | None
    """Float[A]: (1 / V) sum_v log p(v)."""
    slice: Tensor | None
    """Float[A, K]: log p of the tokens asked for."""


def token_logprobs(
    hf: Any,
    hidden: Tensor,
    targets: Tensor,
    temperature: Tensor | None,
    *,
    entropy: bool = False,
    mean: bool = False,
    slice_ids: Tensor | Literal["all"] | None = None,
) -> HeadOutputs:
    """log p(target | hidden) and what else is asked of p = softmax(logits / temperature), all differentiable.

    hidden [A, H], targets [A], temperature [A] or None, slice_ids [A, K] or "all". Only `slice_ids="all"`
    keeps a [A, V] matrix: it is then the result.
    """
    rows = max(1, LOGITS_PER_CHUNK // int(hf.config.get_text_config().vocab_size))
    spans = [slice(i, i + rows) for i in range(0, hidden.shape[0], rows)] or [slice(0, 0)]

    def chunk(h: Tensor, y: Tensor, t: Tensor | None, k: Tensor | None) -> tuple[Tensor, ...]:
        logits = logits_of(hf, h)
        if t is not None:
            logits = logits / t[:, None]
        normaliser = logits.logsumexp(-1)
        found = [logits.gather(-1, y[:, None]).squeeze(-1) - normaliser]
        if entropy:
            p = (logits - normaliser[:, None]).exp()
            found.append(normaliser - (p * logits).sum(-1))
        if mean:
            found.append(logits.mean(-1) - normaliser)
        if slice_ids is not None:
            found.append((logits if k is None else logits.gather(-1, k)) - normaliser[:, None])
        return tuple(found)

    results = []
    for span in spans:
        t = None if temperature is None else temperature[span]
        k = slice_ids[span] if isinstance(slice_ids, Tensor) else None
        if len(spans) > 1 and torch.is_grad_enabled():
            results.append(checkpoint(chunk, hidden[span], targets[span], t, k, use_reentrant=False))
        else:
            results.append(chunk(hidden[span], targets[span], t, k))
    columns = iter([torch.cat(column) for column in zip(*results, strict=True)])
    return HeadOutputs(
        logp=next(columns),
        entropy=next(columns) if entropy else None,
        mean=next(columns) if mean else None,
        slice=next(columns) if slice_ids is not None else None,
    )
