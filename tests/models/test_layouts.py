"""Shared prefixes are computed once, and nobody can tell from the numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardlab.core.batch import Batch
from rewardlab.core.types import Sequence
from rewardlab.models.attention import Forest, Tree
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.models.layouts import tree
from rewardlab.models.passes import STRETCH, choose, split
from support import of_its_own, tiny_policy, windowed

POLICIES = {family: tiny_policy(family) for family in ("llama", "qwen3")}

shapes = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(1, 7), min_size=1, max_size=4)), min_size=1, max_size=4
)
"""(prompt length, answer lengths) of each group."""


def grouped(shape: list[tuple[int, list[int]]], seed: int, *, pairs: bool = False) -> Batch:
    """Answers that share their group's prompt; every other answer token may be an observation."""
    g = torch.Generator().manual_seed(seed)
    rows, group = [], []
    for number, (prompt, answers) in enumerate(shape):
        start = torch.randint(0, 60, (prompt,), generator=g).tolist()
        for n in answers:
            ids = (*start, *torch.randint(0, 60, (n,), generator=g).tolist())
            action = tuple(
                i >= prompt and (i == prompt or bool(torch.rand(1, generator=g) < 0.8))
                for i in range(len(ids))
            )
            rows.append(Sequence(ids, action))
            group.append(number)
    order = torch.randperm(len(rows), generator=g).tolist()  # families need not lie together
    batch = Batch.pack([rows[i] for i in order], group=[group[i] for i in order])
    if not pairs:
        return batch
    couples = [[i, j] for i in range(batch.size) for j in range(i) if batch.group[i] == batch.group[j]]
    return replace(
        batch,
        pairs=torch.tensor(couples[:1], dtype=torch.long).view(-1, 2),
        group=torch.empty(0, dtype=torch.long),
    )


def value_and_gradient(engine: Engine, batch: Batch) -> list[torch.Tensor]:
    engine.model.net.zero_grad()
    marked = batch.with_streams(weight=torch.linspace(-1, 1, batch.ids.numel()))
    total = torch.zeros(())
    for micro in engine.microbatches(marked):
        out = engine.logprobs(micro, entropy=True, mean=True)
        assert out.logp is not None
        assert out.entropy is not None
        assert out.logp_mean is not None
        loss = ((out.logp + 0.3 * out.entropy + 0.2 * out.logp_mean) * micro.streams["weight"]).sum()
        loss.backward()
        total = total + loss.detach()
    return [total, *(p.grad.clone() for p in engine.parameters.values() if p.grad is not None)]


@settings(deadline=None, max_examples=15)
@given(shape=shapes, seed=st.integers(0, 999), budget=st.integers(5, 200), pairs=st.booleans())
def test_a_tree_has_the_values_and_gradients_of_padded_rows(
    shape: list[tuple[int, list[int]]], seed: int, budget: int, pairs: bool
) -> None:
    policy = POLICIES["llama" if seed % 2 else "qwen3"]
    batch = grouped(shape, seed, pairs=pairs)
    padded = value_and_gradient(Engine(policy, EngineSettings(layout="padded")), batch)
    for layout in ("tree", "packed"):
        engine = Engine(policy, EngineSettings(layout=layout, tokens_per_microbatch=budget))
        assert engine.plans
        for a, b in zip(value_and_gradient(engine, batch), padded, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=2e-3)


def test_a_tree_holds_a_prompt_once() -> None:
    batch = grouped([(9, [3, 3, 3])], seed=0)
    layout = tree(batch)
    assert layout.input_ids.numel() == 9 + 3 * 3
    assert torch.equal(layout.input_ids[0, layout.index], batch.ids)
    starts = batch.offsets[:-1]
    assert torch.equal(
        layout.position_ids[0, layout.index], torch.arange(batch.ids.numel()) - starts[batch.seq]
    )
    assert choose(batch) == "tree"
    assert choose(grouped([(2, [7])], seed=0)) == "packed"


@settings(deadline=None, max_examples=40)
@given(shape=shapes, seed=st.integers(0, 999), budget=st.integers(1, 120))
def test_every_sequence_goes_through_once_and_near_the_budget(
    shape: list[tuple[int, list[int]]], seed: int, budget: int
) -> None:
    batch = grouped(shape, seed)
    for layout in ("padded", "packed", "tree"):
        passes = split(batch, layout, budget)
        assert sorted(i for p in passes for i in p) == list(range(batch.size))
        for rows in passes:
            micro = batch.select(rows)
            tokens = {
                "padded": int(micro.lengths.max()) * micro.size,
                "packed": micro.ids.numel(),
                "tree": tree(micro).input_ids.numel(),
            }[layout]
            first = int(batch.lengths[rows[0]])
            stretched = layout == "tree" and len(set(micro.group.tolist())) == 1
            assert len(rows) == 1 or tokens <= max(budget, STRETCH * first * stretched)


def test_a_long_prompt_is_not_computed_for_each_answer() -> None:
    batch = grouped([(60, [5] * 8), (20, [5] * 8)], seed=0)
    assert [len(rows) for rows in split(batch, "tree", 64)] == [7, 1, 8]
    assert [len(rows) for rows in split(batch, "packed", 64)] == [1] * 8 + [2] * 4


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("window", [None, 4])
def test_attention_of_a_forest_is_that_of_its_mask(kv_heads: int, window: int | None) -> None:
    """Finite differences, and the joined kernels against one masked call per tree, in fp64."""
    trees = [Tree(0, 5, 9, (3, 7, 1)), Tree(5, 4, 20, (2,)), Tree(22, 0, 22, (6,)), Tree(28, 0, 28, (6,))]
    position = torch.zeros(34, dtype=torch.long)
    for t in trees:
        for start, n in t.segments():
            position[start : start + n] = torch.arange(n) + (0 if start == t.start else t.prefix)
    forest = Forest(trees, position)
    g = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, h, 34, 3, dtype=torch.float64, generator=g, requires_grad=True)
        for h in (4, kv_heads, kv_heads)
    )
    wide = forest.attend(0, q, k, v, None, window)
    scores = (q @ k.repeat_interleave(4 // kv_heads, 1).transpose(-1, -2)) / 3**0.5
    allowed = torch.zeros(34, 34, dtype=torch.bool)
    for t in trees:
        at, mask = forest._mask(t, window)
        allowed[at[:, None], at[None, :]] = mask
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    torch.testing.assert_close(wide, weights @ v.repeat_interleave(4 // kv_heads, 1))
    assert torch.autograd.gradcheck(lambda a, b, c: forest.attend(0, a, b, c, None, window), (q, k, v))


@pytest.mark.parametrize(("make", "plans"), [(windowed, True), (of_its_own, False)])
def test_other_kinds_of_attention_give_the_plain_forward(make: object, plans: bool) -> None:
    model = make()  # type: ignore[operator]
    batch = grouped([(8, [5, 6]), (3, [9])], seed=3)
    expected = []
    for i in range(batch.size):
        one = batch.select([i])
        with torch.no_grad():
            logp = model.net(input_ids=one.ids[None]).logits[0].log_softmax(-1)
        picked = logp[:-1].gather(1, one.ids[1:, None]).squeeze(1)
        expected.append(torch.cat([torch.zeros(1), picked]) * one.action)
    engine = Engine(model, EngineSettings(tokens_per_microbatch=20))
    assert engine.plans is plans
    torch.testing.assert_close(engine.frozen_logprobs(batch).logp, torch.cat(expected), atol=1e-5, rtol=1e-4)


def test_a_model_of_ours_still_generates_with_padding_and_mask() -> None:
    """The attention that plans use falls back to the library's own where there is no plan."""
    model = tiny_policy("llama")
    ids = torch.tensor([[0, 0, 5, 6, 7], [4, 9, 5, 6, 7]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    before = model.net.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    assert Engine(model).plans
    after = model.net.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False)
    assert torch.equal(before, after)
