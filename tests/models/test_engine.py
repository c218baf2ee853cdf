"""The engine gives the same numbers whatever the layout, split, padding or order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardlab.core.batch import Batch
from rewardlab.core.types import Sequence
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.models.loading import Model
from support import tiny_policy, tiny_reward_model

LAYOUTS = ("padded", "packed", "tree", "auto")


@pytest.fixture(scope="module", params=["llama", "qwen3"])
def policy(request: pytest.FixtureRequest) -> Model:
    return tiny_policy(request.param)


def random_batch(lengths: list[int], seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for n in lengths:
        ids = torch.randint(0, 60, (n,), generator=generator).tolist()
        action = (torch.rand(n, generator=generator) < 0.6).tolist()
        action[0], action[-1] = False, True
        rows.append(Sequence(tuple(ids), tuple(action)))
    return Batch.pack(rows)


def gradients(engine: Engine, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Log-probs, entropies and the gradient of a loss that uses both, over the engine's own split."""
    engine.model.net.zero_grad()
    weight = torch.linspace(-1, 1, batch.ids.numel())
    marked = batch.with_streams(weight=weight)
    frozen = engine.frozen_logprobs(batch, entropy=True)
    for micro in engine.microbatches(marked):
        out = engine.logprobs(micro, entropy=True)
        assert out.logp is not None
        assert out.entropy is not None
        ((out.logp + 0.3 * out.entropy) * micro.streams["weight"]).sum().backward()
    assert frozen.logp is not None
    assert frozen.entropy is not None
    return (
        frozen.logp,
        frozen.entropy,
        [p.grad.clone() for p in engine.parameters.values() if p.grad is not None],
    )


def test_logprobs_equal_the_plain_forward(policy: Model) -> None:
    batch = random_batch([7, 4, 9], seed=1)
    out = Engine(policy).frozen_logprobs(batch, entropy=True)
    for i in range(batch.size):
        a, b = int(batch.offsets[i]), int(batch.offsets[i + 1])
        with torch.no_grad():
            logits = policy.net(input_ids=batch.ids[None, a:b]).logits[0]
        logp = logits.log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1)
        for t in range(a, b):
            if batch.action[t]:
                assert float(out.logp[t]) == pytest.approx(float(logp[t - a - 1, batch.ids[t]]), abs=1e-5)
                assert float(out.entropy[t]) == pytest.approx(float(entropy[t - a - 1]), abs=1e-5)
            else:
                assert out.logp[t] == 0
                assert out.entropy[t] == 0


@settings(deadline=None, max_examples=15)
@given(
    lengths=st.lists(st.integers(2, 12), min_size=1, max_size=6),
    budget=st.integers(4, 80),
    seed=st.integers(0, 1000),
)
def test_layout_and_split_change_neither_values_nor_gradients(
    policy: Model, lengths: list[int], budget: int, seed: int
) -> None:
    batch = random_batch(lengths, seed)
    reference = gradients(Engine(policy, EngineSettings(layout="padded", tokens_per_microbatch=10**6)), batch)
    for layout in LAYOUTS:
        other = gradients(Engine(policy, EngineSettings(layout=layout, tokens_per_microbatch=budget)), batch)
        torch.testing.assert_close(other[0], reference[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(other[1], reference[1], atol=2e-5, rtol=1e-4)
        for g, h in zip(other[2], reference[2], strict=True):
            torch.testing.assert_close(g, h, atol=2e-5, rtol=2e-3)


def test_chunked_head_equals_the_whole_one(policy: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = random_batch([12, 5, 8], seed=3)
    whole = gradients(Engine(policy), batch)
    for name in ("LOGITS_KEPT", "LOGITS_PER_CHUNK", "BLOCK"):
        monkeypatch.setattr(f"rewardlab.models.head.{name}", 400)
        chunked = gradients(Engine(policy), batch)
        for a, b in zip((whole[0], whole[1], *whole[2]), (chunked[0], chunked[1], *chunked[2]), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_temperature_divides_the_logits(policy: Model) -> None:
    batch = random_batch([6], seed=2)
    hot = batch.with_streams(temperature=torch.full((6,), 2.0))
    out = Engine(policy).frozen_logprobs(hot)
    with torch.no_grad():
        logp = (policy.net(input_ids=batch.ids[None]).logits[0] / 2.0).log_softmax(-1)
    expected = [float(logp[t - 1, batch.ids[t]]) if batch.action[t] else 0.0 for t in range(6)]
    assert out.logp.tolist() == pytest.approx(expected, abs=1e-5)


@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(1, 12), min_size=2, max_size=6), budget=st.integers(1, 60))
def test_reward_scores_do_not_depend_on_batch_layout_or_order(lengths: list[int], budget: int) -> None:
    model = REWARD_MODEL
    batch = Batch.pack(
        [Sequence(tuple(torch.arange(i, i + n).tolist()), (False,) * n) for i, n in enumerate(lengths)]
    )
    alone = torch.cat([Engine(model).frozen_scores(batch.select([i])) for i in range(batch.size)])
    for layout in LAYOUTS:
        engine = Engine(model, EngineSettings(layout=layout, tokens_per_microbatch=budget))
        torch.testing.assert_close(engine.frozen_scores(batch), alone, atol=1e-5, rtol=1e-4)
        reverse = list(range(batch.size))[::-1]
        torch.testing.assert_close(
            engine.frozen_scores(batch.select(reverse)), alone.flip(0), atol=1e-5, rtol=1e-4
        )


def test_a_pad_id_inside_the_answer_does_not_move_the_score() -> None:
    """The head reads the last real token by length even where that token is the pad id itself."""
    pad = REWARD_MODEL.tokenizer.pad_token_id
    rows = [Sequence((5, 6, pad), (False,) * 3), Sequence((5, pad, 6, 7, 8, 9), (False,) * 6)]
    together = Engine(REWARD_MODEL).frozen_scores(Batch.pack(rows))
    with torch.no_grad():
        hidden = REWARD_MODEL.hf.base_model(input_ids=torch.tensor([rows[0].ids])).last_hidden_state
        expected = REWARD_MODEL.hf.score(hidden[0, -1])
    assert float(together[0]) == pytest.approx(float(expected), abs=1e-6)


def test_pairs_stay_together_in_microbatches() -> None:
    batch = random_batch([3, 9, 4, 8, 5, 7], seed=0)
    paired = Batch(batch.ids, batch.offsets, batch.action, pairs=torch.tensor([[0, 1], [2, 3], [4, 5]]))
    engine = Engine(REWARD_MODEL, EngineSettings(tokens_per_microbatch=10))
    split = engine.split(paired)
    assert sorted(map(sorted, split)) == [[0, 1], [2, 3], [4, 5]]
    assert sum(m.pairs.shape[0] for m in engine.microbatches(paired)) == 3


REWARD_MODEL = tiny_reward_model()
