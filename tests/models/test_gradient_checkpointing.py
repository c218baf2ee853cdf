"""Gradient checkpointing computes a layer twice, and nobody can tell from the numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rewardlab.core.batch import Batch, given
from rewardlab.core.errors import UserError
from rewardlab.core.types import Sequence
from rewardlab.models import memory
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.models.layouts import LayoutName
from rewardlab.models.loading import LoraSettings, Model, add_lora
from support import of_its_own, tiny_policy, tiny_reward_model, windowed

LAYOUTS: tuple[LayoutName, ...] = ("padded", "packed", "tree")
ROWS = [
    Sequence((*range(8), *range(20 + n, 20 + 2 * n)), (*(False,) * 8, *(True,) * n))
    for n in (2, 9, 4, 7, 5, 3)
]
BATCH = Batch.pack(ROWS, group=[0, 0, 0, 1, 1, 2])


def lora(seed: int = 0) -> Model:
    model = add_lora(tiny_policy(), LoraSettings(rank=2), reward_head=False, seed=seed)
    for name, p in model.net.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(1))
    return model


MODELS = {
    "llama": tiny_policy,
    "qwen3": lambda: tiny_policy("qwen3"),
    "lora": lora,
    "windowed": windowed,
    "of its own": of_its_own,
}


def value_and_gradient(engine: Engine) -> tuple[list[Tensor], int]:
    """Log-probs, entropies and gradients in training mode; how often the first layer's MLP was computed."""
    net = engine.model.net.train()
    _ = engine.fusable  # passes that only try things out are not counted
    calls: list[int] = []
    layers = next(m for m in net.modules() if isinstance(m, torch.nn.ModuleList))
    last = [m for m in layers[0].mlp.children() if list(m.parameters())][-1]
    handle = last.register_forward_pre_hook(lambda *_: calls.append(1))
    marked = BATCH.with_streams(weight=torch.linspace(-1, 1, BATCH.ids.numel()))
    found = []
    for micro in engine.microbatches(marked):
        out = engine.logprobs(micro, entropy=True)
        (micro.streams["weight"] * (given(out.logp) + 0.3 * given(out.entropy))).sum().backward()
        found += [given(out.logp).detach(), given(out.entropy).detach()]
    handle.remove()
    return found + [given(p.grad) for p in engine.parameters.values()], len(calls)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_value_and_gradient_are_equal_in_every_layout(name: str, layout: LayoutName) -> None:
    settings = EngineSettings(layout=layout, tokens_per_microbatch=40, gradient_checkpointing=False)
    plain, once = value_and_gradient(Engine(MODELS[name](), settings))
    on = settings.model_copy(update={"gradient_checkpointing": True})
    again, twice = value_and_gradient(Engine(MODELS[name](), on))
    for x, y in zip(plain, again, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)
    assert twice == 2 * once


def test_reward_scores_too() -> None:
    found = []
    for on in (False, True):
        engine = Engine(tiny_reward_model(), EngineSettings(gradient_checkpointing=on))
        engine.model.net.train()
        given(engine.scores(BATCH).scores).square().sum().backward()
        found.append([given(p.grad) for p in engine.parameters.values()])
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


def test_it_needs_less_memory_for_the_backward_pass() -> None:
    def kept(on: bool) -> int:
        engine = Engine(tiny_policy(), EngineSettings(gradient_checkpointing=on))
        engine.model.net.train()
        engine.plans  # noqa: B018  tried before it is measured
        storages: dict[int, int] = {}

        def note(x: Tensor) -> Tensor:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            states = engine.hidden(BATCH)
        assert states.requires_grad
        return sum(storages.values())

    assert kept(True) < 0.5 * kept(False)


def test_a_network_without_it_is_named() -> None:
    model = tiny_policy()
    model.hf.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match="LlamaForCausalLM does not support it"):
        Engine(model, EngineSettings(gradient_checkpointing=True))
    memory.settle(Engine(model), BATCH, "fp32")  # auto leaves it alone


@pytest.mark.parametrize(("free", "on"), [(None, False), (2**40, False), (10_000, True)])
def test_auto_looks_at_what_is_free(monkeypatch: pytest.MonkeyPatch, free: int | None, on: bool) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    engine = Engine(tiny_policy())
    memory.settle(engine, BATCH, "fp32")
    assert engine.model.hf.is_gradient_checkpointing == on
    off = Engine(tiny_policy(), EngineSettings(gradient_checkpointing=False))
    memory.settle(off, BATCH, "fp32")
    assert not off.model.hf.is_gradient_checkpointing


def test_auto_counts_a_shared_prompt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight answers of 4 tokens to a prompt of 200: 232 tokens as a tree, 1,632 apart."""
    answers = [Sequence((*range(200), *range(n, n + 4)), (False,) * 200 + (True,) * 4) for n in range(8)]
    batch = Batch.pack(answers, group=[0] * 8)
    engine = Engine(tiny_policy(), EngineSettings(tokens_per_microbatch=256))
    net = engine.model.net
    enough = memory.plan_memory(memory.Network.of(net, net), tokens=300, actions=100).total
    monkeypatch.setattr(memory, "free_memory", lambda device: enough / memory.SHARE["cpu"])
    memory.settle(engine, batch, "fp32")
    assert not net.is_gradient_checkpointing
    apart = Engine(tiny_policy(), EngineSettings(tokens_per_microbatch=2048, layout="packed"))
    memory.settle(apart, batch, "fp32")
    assert apart.model.hf.is_gradient_checkpointing
