"""The sampler draws from the policy, records the log-probs that the trainer computes, and is repeatable."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.models.engine import Engine, EngineSettings
from rewardlab.models.loading import Model
from rewardlab.rollout.draw import draw as inverse_cdf
from rewardlab.rollout.sampler import Sampler, SamplerSettings
from support import of_its_own, tiny_policy, windowed

PROMPTS = [[5, 9, 11], [7, 8, 9, 10, 11, 12, 13], [40]]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_policy("qwen3"))


def draw(engine: Engine, seed: int = 0, **settings: object) -> list:
    sampler = Sampler(engine, SamplerSettings(**{"samples_per_prompt": 4, "max_new_tokens": 12, **settings}))
    return sampler.sample(PROMPTS, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_recorded_logprobs_are_those_of_the_trainer(engine: Engine, temperature: float, layout: str) -> None:
    groups = draw(engine, temperature=temperature)
    batch = Batch.pack([s for g in groups for s in g])
    trainer = Engine(engine.model, EngineSettings(layout=layout))
    logp = trainer.frozen_logprobs(batch).logp
    torch.testing.assert_close(logp, batch.streams["logp_sample"], atol=1e-5, rtol=0)


def test_logprobs_still_agree_after_the_weights_moved(engine: Engine) -> None:
    moved = Engine(tiny_policy("qwen3", seed=5))
    draw(moved)
    with torch.no_grad():
        for parameter in moved.parameters.values():
            parameter.mul_(0.9)
    batch = Batch.pack([s for g in draw(moved) for s in g])
    assert moved.frozen_logprobs(batch).logp is not None
    torch.testing.assert_close(
        moved.frozen_logprobs(batch).logp, batch.streams["logp_sample"], atol=1e-5, rtol=0
    )


def test_same_seed_same_answers_however_rows_are_batched(engine: Engine) -> None:
    reference = draw(engine)
    for rows in (4, 8, 12):
        assert [[s.ids for s in g] for g in draw(engine, rows_per_batch=rows)] == [
            [s.ids for s in g] for g in reference
        ]
    assert [s.ids for s in draw(engine, seed=1)[0]] != [s.ids for s in reference[0]]


def test_a_stop_token_ends_an_answer_and_is_an_action(engine: Engine) -> None:
    stop = engine.model.stop_ids[0]
    for prompt, group in zip(PROMPTS, draw(engine, samples_per_prompt=64, max_new_tokens=30), strict=True):
        for s in group:
            answer = s.ids[len(prompt) :]
            assert s.ids[: len(prompt)] == tuple(prompt)
            assert s.actions == len(answer)
            assert stop not in answer[:-1]
            assert (s.stop == "stop") == (answer[-1] == stop)
            assert s.stop == "stop" or len(answer) == 30


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 99), first=st.integers(0, 200), size=st.integers(1, 5), own=st.booleans())
def test_a_stop_text_ends_an_answer_where_it_is_complete(seed: int, first: int, size: int, own: bool) -> None:
    """With and without stop texts the same draws: the answer is cut at the token that completes the first."""
    sampled = Engine(of_its_own() if own else tiny_policy())  # both decoders
    tokenizer = sampled.model.tokenizer
    free = draw(sampled, seed, max_new_tokens=30)

    def text(prompt: list[int], ids: tuple[int, ...]) -> str:
        return tokenizer.decode(ids[len(prompt) :], skip_special_tokens=False)

    drawn = text(PROMPTS[0], free[0][0].ids)
    found = drawn[first % len(drawn) :][:size]
    texts = tuple(t for t in (found, "e ") if "\ufffd" not in t)  # no part of a character
    stopped = draw(sampled, seed, max_new_tokens=30, stop_sequences=texts)
    for prompt, before, after in zip(PROMPTS, free, stopped, strict=True):
        for x, y in zip(before, after, strict=True):
            ends = range(len(prompt) + 1, len(x.ids) + 1)
            cut = next((n for n in ends if any(t in text(prompt, x.ids[:n]) for t in texts)), None)
            assert y.ids == x.ids[:cut]
            assert y.logp == pytest.approx(x.logp[:cut], abs=1e-5)
            assert y.stop == (x.stop if cut is None else "stop")


def test_a_stop_text_that_the_prompt_begins_does_not_count(engine: Engine) -> None:
    (first, *_), *_ = draw(engine)
    over = engine.model.tokenizer.decode(first.ids[len(PROMPTS[0]) - 1 :][:2])
    assert draw(engine, stop_sequences=(over,))[0][0].ids == first.ids


def test_an_empty_stop_text_is_refused(engine: Engine) -> None:
    with pytest.raises(UserError, match="empty text"):
        draw(engine, stop_sequences=("",))


def test_first_tokens_follow_the_policy_distribution(engine: Engine) -> None:
    """Chi-square of 4000 first tokens against the softmax; cells with expectation below 5 are pooled."""
    n = 4000
    groups = Sampler(engine, SamplerSettings(samples_per_prompt=n, max_new_tokens=1)).sample(
        PROMPTS[:1], torch.Generator().manual_seed(3)
    )
    with torch.no_grad():
        p = engine.model.net(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1).double()
    counts = torch.bincount(torch.tensor([s.ids[-1] for s in groups[0]]), minlength=p.numel()).double()
    rare = p * n < 5
    observed = [*counts[~rare].tolist(), float(counts[rare].sum())]
    expected = [*(p[~rare] * n).tolist(), float(p[rare].sum() * n)]
    assert stats.chisquare(observed, [e * sum(observed) / sum(expected) for e in expected]).pvalue > 1e-4


def test_greedy_takes_the_most_likely_token(engine: Engine) -> None:
    group = draw(engine, temperature=0.0, samples_per_prompt=2)[0]
    assert group[0].ids == group[1].ids
    with torch.no_grad():
        best = int(engine.model.net(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].argmax())
    assert group[0].ids[len(PROMPTS[0])] == best


def test_short_answers_do_not_wait_and_places_are_given_to_the_next(engine: Engine) -> None:
    """Far more answers than places: each place is used again as soon as its answer ends."""
    wide = draw(engine, samples_per_prompt=20, max_new_tokens=30, rows_per_batch=1000)
    narrow = draw(engine, samples_per_prompt=20, max_new_tokens=30, rows_per_batch=7)
    assert [[s.ids for s in g] for g in narrow] == [[s.ids for s in g] for g in wide]
    assert len({len(s) for g in wide for s in g}) > 3  # they really end at different times


@pytest.mark.parametrize("make", [windowed, of_its_own])
def test_other_kinds_of_attention_are_sampled_from_rightly(make: Callable[[], Model]) -> None:
    other = Engine(make())
    for rows in (5, 100):
        batch = Batch.pack([s for g in draw(other, rows_per_batch=rows) for s in g])
        torch.testing.assert_close(
            other.frozen_logprobs(batch).logp, batch.streams["logp_sample"], atol=1e-5, rtol=0
        )


@settings(deadline=None, max_examples=30)
@given(size=st.integers(1, 900), rows=st.integers(1, 5), seed=st.integers(0, 999), sharp=st.floats(0, 60))
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(
    size: int, rows: int, seed: int, sharp: float
) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, size, generator=g) * sharp
    u = torch.rand(rows, generator=g, dtype=torch.float64)
    token, logp = inverse_cdf(logits, u, 1.0)
    p = logits.double().softmax(-1)
    cdf = p.cumsum(-1)
    below = cdf.gather(1, token[:, None]).squeeze(1) - p.gather(1, token[:, None]).squeeze(1)
    assert bool((below <= u + 1e-5).all())
    assert bool((u <= below + p.gather(1, token[:, None]).squeeze(1) + 1e-5).all())
    expected = logits.log_softmax(-1).gather(1, token[:, None]).squeeze(1)
    torch.testing.assert_close(logp, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("u", [0.0, 1.0 - 2**-53])
def test_the_ends_of_the_line_give_tokens_with_probability(u: float) -> None:
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]])
    token, _ = inverse_cdf(logits, torch.tensor([u], dtype=torch.float64), 1.0)
    assert int(token) in (1, 2)
