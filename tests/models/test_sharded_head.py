"""A head whose weight is sharded over ranks gives the log-probs and the gradient of a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from rewardlab.models import head
from rewardlab.models.head import token_logprobs
from support import tiny_policy

RANKS, ROWS = 2, 6


def inputs(width: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, width, generator=g), torch.randint(vocabulary, (ROWS,), generator=g)


def rank(number: int, folder: str, chunked: bool) -> None:
    """Each rank has half of the rows."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=RANKS)
    if chunked:
        head.LOGITS_KEPT, head.LOGITS_PER_CHUNK = 0, 1
    hf = tiny_policy().hf
    mesh = init_device_mesh("cpu", (RANKS,))
    module = hf.get_output_embeddings()
    sharded = distribute_tensor(module.weight.detach(), mesh, [Shard(0)])
    module.weight = torch.nn.Parameter(sharded)
    hidden, targets = inputs(module.in_features, hf.config.vocab_size)
    mine = slice(number * ROWS // RANKS, (number + 1) * ROWS // RANKS)
    found = token_logprobs(hf, hidden[mine], targets[mine], None).logp
    found.sum().backward()
    gradient = module.weight.grad.full_tensor()
    torch.save({"logp": found.detach(), "gradient": gradient}, f"{folder}/{number}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_sharded_head_is_a_head(tmp_path: Path, chunked: bool) -> None:
    mp.spawn(rank, (str(tmp_path), chunked), nprocs=RANKS)
    hf = tiny_policy().hf
    module = hf.get_output_embeddings()
    hidden, targets = inputs(module.in_features, hf.config.vocab_size)
    expected = token_logprobs(hf, hidden, targets, None).logp
    expected.sum().backward()
    parts = [torch.load(tmp_path / f"{n}.pt") for n in range(RANKS)]
    torch.testing.assert_close(torch.cat([p["logp"] for p in parts]), expected.detach())
    for part in parts:
        torch.testing.assert_close(part["gradient"], module.weight.grad)
