"""Log-probs of the starting policy on disk, by the content they were computed from.

Offline methods compare with the policy that training starts from. Its log-probs of the data are the same in
every run that starts there, whatever the learning rate, the loss or the seed, so they are kept for the next.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence as Rows
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from rewardlab.core.types import Sequence
from rewardlab.models.engine import Engine
from rewardlab.records.atomic import write_file

log = logging.getLogger(__name__)
KEY_BYTES = 32


class ReferenceCache:
    """The log-probs of single sequences by one model as it was when this was made.

    They lie in `<folder>/<model>/*.safetensors`, one file per `add`, written whole or not at all and named by
    the hash of its own bytes; a file whose bytes have another hash is passed over with one line in the log.
    `<model>` hashes the weights, the network's config, and everything about the engine that decides how a
    result is rounded: precision, layout, `tokens_per_microbatch`, device type, PyTorch's version. A sequence
    is found by its token ids, its actions and its temperature. Anyone may delete the folder at any time.

    What is guaranteed: a sequence that is found has the bits that were computed when it was stored, so a run
    that is repeated has the bits of the first. Computed beside other sequences it may differ from that in the
    last bits, as it may without a cache.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder = folder / _model_digest(engine)
        self._found: dict[bytes, Tensor] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            self._read(file)

    def __contains__(self, sequence: Sequence) -> bool:
        return _key(sequence) in self._found

    def __getitem__(self, sequence: Sequence) -> Tensor:
        """Float[its length]: 0 outside actions."""
        logp = torch.zeros(len(sequence))
        logp[torch.tensor(sequence.action)] = self._found[_key(sequence)]
        return logp

    def add(self, sequences: Rows[Sequence], logp: Rows[Tensor]) -> None:
        """Keep Float[its length] of each sequence; one that is known already stays as it is."""
        new: dict[bytes, Tensor] = {}
        for sequence, x in zip(sequences, logp, strict=True):
            if (key := _key(sequence)) not in self._found:
                new.setdefault(key, x[torch.tensor(sequence.action)].float())
        if not new:
            return
        self._found |= new
        content = save(
            {
                "keys": torch.frombuffer(bytearray(b"".join(new)), dtype=torch.uint8),
                "lengths": torch.tensor([x.numel() for x in new.values()]),
                "logp": torch.cat(list(new.values())),
            }
        )
        file = self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors"
        with suppress(FileNotFoundError):  # another run was writing the same bytes, and was first
            write_file(file, lambda temporary: temporary.write_bytes(content))

    def _read(self, file: Path) -> None:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != file.stem:
            log.warning("%s is damaged and not used; delete it", file)
            return
        tensors = load(content)
        keys = tensors["keys"].numpy().tobytes()
        parts = tensors["logp"].split(tensors["lengths"].tolist())
        for i, x in enumerate(parts):
            self._found.setdefault(keys[i * KEY_BYTES : (i + 1) * KEY_BYTES], x)


def _key(sequence: Sequence) -> bytes:
    found = hashlib.sha256(f"{len(sequence)} {sequence.temperature!r} ".encode())
    found.update(np.array(sequence.ids, dtype="<i8").tobytes())
    found.update(np.array(sequence.action, dtype=bool).tobytes())
    return found.digest()


def _model_digest(engine: Engine) -> str:
    """Hash of all that the log-probs depend on but the sequence.

    A fresh adapter changes nothing until its B is trained, so its random A is left out: runs with other
    seeds share a cache.
    """
    s, config = engine.settings, engine.model.hf.config.to_dict()
    facts = {
        "config": {k: v for k, v in config.items() if not k.startswith("_")},
        "settings": [s.precision, s.layout, s.tokens_per_microbatch],
        "machine": [engine.model.device.type, torch.__version__],
    }
    found = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    state = engine.model.net.state_dict()
    for name, tensor in sorted(state.items()):
        if ".lora_A." in name and not state[name.replace(".lora_A.", ".lora_B.")].any():
            continue
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
