"""Feature rows on disk by the content they were computed from."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from rewardlab.core.types import Rollout
from rewardlab.records.atomic import write_file
from rewardlab.rewards.frozen_features import Features, digest
from rewardlab.rewards.linear_head import Floats

CHUNK = 512
"""Rollouts computed between two writes: what a killed run loses at most."""


class CachedFeatures:
    """The same features, each computed once: keyed by the features' identity, the prompt and the answer.

    Rows lie as fp32 in `<folder>/<identity>/*.safetensors` with their keys in the file's metadata, so runs
    may share a folder; a damaged or foreign file is never read, since a row is found by its own key.
    """

    def __init__(
        self, features: Features, folder: Path, advance: Callable[[int], object] = lambda n: None
    ) -> None:
        self.features, self.folder, self.advance = features, folder / features.identity, advance
        self.identity = features.identity
        self._rows: dict[str, np.ndarray] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            keys = json.loads(file.with_suffix(".json").read_text())
            self._rows |= dict(zip(keys, load_file(file)["features"]))

    def __call__(self, rollouts: Sequence[Rollout]) -> Floats:
        """Float[N, D]: computed in chunks, the unknown ones only."""
        keys = [_key(r) for r in rollouts]
        missing = {k: r for k, r in zip(keys, rollouts) if k not in self._rows}
        self.advance(len(rollouts) - len(missing))
        names = list(missing)
        for begin in range(0, len(names), CHUNK):
            chunk = names[begin : begin + CHUNK]
            found = self.features([missing[k] for k in chunk]).astype(np.float32)
            self._write(chunk, found)
            self._rows |= dict(zip(chunk, found))
            self.advance(len(chunk))
        return np.array([self._rows[k] for k in keys], dtype=np.float64)

    def _write(self, keys: list[str], found: np.ndarray) -> None:
        file = self.folder / f"{digest(*keys)}.safetensors"
        write_file(file.with_suffix(".json"), lambda temporary: temporary.write_text(json.dumps(keys)))
        write_file(file, lambda temporary: save_file({"features": found}, temporary))


def _key(rollout: Rollout) -> str:
    return digest(*((m.role, m.content) for m in rollout.prompt.messages), rollout.text)
