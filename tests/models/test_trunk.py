"""The trunk of few steps: the network's own numbers and gradients, for every shape it takes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rewardlab.core.batch import Batch
from rewardlab.core.batch import given as known
from rewardlab.models import trunk
from rewardlab.models.elementwise import heads_of, rms_norm, swiglu
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.models.loading import LoraSettings, Model, add_lora
from support import tiny_policy, tiny_tokenizer

SHAPE = {
    "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 40, "head_dim": 8, "max_position_embeddings": 128,
}  # fmt: skip
NETWORKS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen2, biases": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3, norms of queries and keys": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE)),
    "mistral, a window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=5)),
    "llama with gelu": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, hidden_act="gelu")),
}


def family() -> Batch:
    """Two groups: three answers to one prompt, one to another."""
    g = torch.Generator().manual_seed(0)
    prompt = torch.randint(40, (6,), generator=g)
    parts = [torch.cat([prompt, torch.randint(40, (n,), generator=g)]) for n in (4, 1, 7)]
    parts.append(torch.randint(40, (9,), generator=g))
    lengths = torch.tensor([p.numel() for p in parts])
    action = torch.cat([torch.arange(n) >= (5 if i == 3 else 6) for i, n in enumerate(lengths.tolist())])
    return Batch(torch.cat(parts), F.pad(lengths.cumsum(0), (1, 0)), action, group=torch.tensor([0, 0, 0, 1]))


def result(engine: Engine, batch: Batch, own: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probs and gradients, through the network's own forward or the trunk."""
    engine.__dict__["fusable"] = not own
    logp = known(engine.logprobs(batch).logp)
    engine.model.net.zero_grad()
    (logp * torch.linspace(-1, 1, logp.numel())).sum().backward()
    return logp.detach(), {k: p.grad.clone() for k, p in engine.parameters.items() if p.grad is not None}


@pytest.mark.parametrize("few", [trunk.FEW, 1], ids=["", "only what is read"])
@pytest.mark.parametrize("layout", ["padded", "packed", "tree"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_own_numbers_and_gradients(
    name: str, layout: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trunk, "FEW", few)
    torch.manual_seed(1)
    net: PreTrainedModel = NETWORKS[name]()
    for module in net.modules():  # norms and biases that do something
        if "Norm" in type(module).__name__:
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
        elif getattr(module, "bias", None) is not None:
            torch.nn.init.normal_(module.bias)
    engine = Engine(Model(net, tiny_tokenizer(), "tiny"), EngineSettings(layout=layout))
    assert engine.fusable
    logp, grads = result(engine, family(), own=False)
    expected, wanted = result(engine, family(), own=True)
    torch.testing.assert_close(logp, expected, rtol=1e-5, atol=1e-6)
    assert grads.keys() == wanted.keys()
    rounding = 1e-6 * max(float(g.abs().max()) for g in wanted.values())
    for key in grads:
        torch.testing.assert_close(grads[key], wanted[key], rtol=1e-4, atol=rounding, msg=key)


def test_adapters_get_their_gradients() -> None:
    torch.manual_seed(0)
    engine = Engine(add_lora(tiny_policy(), LoraSettings(rank=2), reward_head=False, seed=0))
    with torch.no_grad():
        for key, p in engine.parameters.items():
            if "lora_B" in key:
                torch.nn.init.normal_(p, std=0.1)
    batch = family()
    assert engine.fusable
    logp, grads = result(engine, batch, own=False)
    expected, wanted = result(engine, batch, own=True)
    torch.testing.assert_close(logp, expected, rtol=1e-5, atol=1e-6)
    assert len(grads) == len(engine.parameters)
    rounding = 1e-6 * max(float(g.abs().max()) for g in wanted.values())
    for key in grads:
        torch.testing.assert_close(grads[key], wanted[key], rtol=1e-4, atol=rounding, msg=key)


def test_bf16_rows_come_in_multiples_and_no_one_sees_the_filler() -> None:
    exact, rounded = Engine(tiny_policy()), Engine(tiny_policy(), EngineSettings(precision="bf16"))
    batch = family()
    logp, near = known(exact.logprobs(batch).logp), known(rounded.logprobs(batch).logp)
    assert torch.equal(near[~batch.action], torch.zeros_like(near[~batch.action]))
    torch.testing.assert_close(near, logp, rtol=0.02, atol=0.02)


def test_layers_computed_again_give_the_same() -> None:
    torch.manual_seed(2)
    engine = Engine(Model(NETWORKS["llama"](), tiny_tokenizer(), "tiny"))
    engine.model.net.train()
    kept = result(engine, family(), own=False)
    engine.checkpoint_layers()
    again = result(engine, family(), own=False)
    assert torch.equal(kept[0], again[0])
    assert all(torch.equal(kept[1][k], again[1][k]) for k in kept[1])


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 6).map(lambda n: 2 * n), st.integers(0, 2**20))
def test_elementwise_backward_is_right(rows: int, size: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).requires_grad_()

    x, w, gate_up = draw(rows, size), draw(size), draw(rows, 2 * size)
    y, cos, sin = draw(1, rows, 5, size), draw(1, rows, 3, size).detach(), draw(1, rows, 3, size).detach()

    def plain_heads(y: Tensor) -> Tensor:
        turning, v = y.split([3, 2], 2)
        a, b = turning.chunk(2, -1)
        return torch.cat([turning * cos + torch.cat([-b, a], -1) * sin, v], 2)

    def plain_norm(x: Tensor, w: Tensor) -> Tensor:
        return w * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def plain_swiglu(t: Tensor) -> Tensor:
        return F.silu(t[:, :size]) * t[:, size:]

    for ours, plain, inputs in (
        (lambda x, w: rms_norm(x, w, 1e-5, torch.float32), plain_norm, (x, w)),
        (lambda y: torch.cat(heads_of(y, (2, 1, 2), cos, sin), 2), plain_heads, (y,)),
        (swiglu, plain_swiglu, (gate_up,)),
    ):
        found, expected = ours(*inputs), plain(*inputs)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        weight = torch.randn(found.shape, generator=g)
        for a, b in zip(
            torch.autograd.grad(found, inputs, weight),
            torch.autograd.grad(expected, inputs, weight),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
