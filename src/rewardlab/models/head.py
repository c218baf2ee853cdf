"""Log-probs and entropies from hidden states, at the action positions only.

The vocabulary projection is done in chunks of tokens and recomputed in backward, so the [tokens, V]
matrix of logits is never held whole. Projection in the network's precision, soft-max in fp32.
"""

from __future__ import annotations

from typing import Any

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


def token_logprobs(
    hf: Any, hidden: Tensor, targets: Tensor, temperature: Tensor | None, *, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """log p(target | hidden) and, if asked, the entropy of p. Shapes [A, H], [A], [A] -> [A], [A].

    p = softmax(logits / temperature); entropy = -sum p log p in nats. Both have exact gradients.
    """
    rows = max(1, LOGITS_PER_CHUNK // int(hf.config.get_text_config().vocab_size))
    spans = [slice(i, i + rows) for i in range(0, hidden.shape[0], rows)] or [slice(0, 0)]

    def chunk(h: Tensor, y: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor]:
        logits = logits_of(hf, h)
        if t is not None:
            logits = logits / t[:, None]
        normaliser = logits.logsumexp(-1)
        logp = logits.gather(-1, y[:, None]).squeeze(-1) - normaliser
        if not entropy:
            return logp, logp.detach()
        p = (logits - normaliser[:, None]).exp()
        return logp, normaliser - (p * logits).sum(-1)

    results = []
    for span in spans:
        t = None if temperature is None else temperature[span]
        if len(spans) > 1 and torch.is_grad_enabled():
            results.append(checkpoint(chunk, hidden[span], targets[span], t, use_reentrant=False))
        else:
            results.append(chunk(hidden[span], targets[span], t))
    logp = torch.cat([r[0] for r in results])
    return logp, torch.cat([r[1] for r in results]) if entropy else None
