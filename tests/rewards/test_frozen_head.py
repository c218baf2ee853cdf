"""A head on frozen features learns what is planted, chooses its L2 by prompts, and survives the disk."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel

from rewardlab.core.errors import UserError
from rewardlab.core.types import Message, Prompt, Rollout, Sequence
from rewardlab.models.engine import Engine
from rewardlab.rewards.answer_style import AnswerStyle
from rewardlab.rewards.feature_cache import CachedFeatures
from rewardlab.rewards.frozen_features import MINILM, FeatureSettings, NgramFeatures, build_features
from rewardlab.rewards.frozen_head import FrozenHeadSettings, load_frozen_head, save_frozen_head
from rewardlab.rewards.linear_head import fit_head, grouped_folds
from support import tiny_policy, tiny_tokenizer

L2 = [1e-3, 1e-1, 10.0]


def said(text: str, prompt: str = "How?") -> Rollout:
    return Rollout(Prompt((Message("user", prompt),)), Sequence((0,), (False,)), text)


def no_policy(name: str) -> Engine:
    raise AssertionError(f"the policy {name} is not needed")


def causal(seed: int = 0) -> Engine:
    return Engine(tiny_policy(seed=seed))


def planted(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Feature rows of two answers, and labels that follow the second feature."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n, d))
    p = 1 / (1 + np.exp(-3 * (a[:, 1] - b[:, 1])))
    return a, b, (rng.random(n) < p).astype(float), [i // 3 for i in range(n)]


@pytest.mark.parametrize("loss", ["bradley_terry", "ridge"])
def test_a_planted_feature_is_found(loss: str) -> None:
    a, b, p, groups = planted(600, 6, 0)
    head = fit_head(a, b, p, groups, l2=L2, seed=0, loss=loss)  # type: ignore[arg-type]
    rest = np.abs(np.delete(head.weight, 1))
    assert head.weight[1] > 5 * rest.max()
    assert head(np.concatenate([a, b])).mean() == pytest.approx(0, abs=1e-9)
    if loss == "bradley_terry":
        assert head.weight[1] == pytest.approx(3, abs=0.7)


def test_swapping_the_sides_of_pairs_changes_nothing() -> None:
    a, b, p, groups = planted(200, 4, 1)
    turn = np.random.default_rng(0).random(200) < 0.5
    c, d, q = np.where(turn[:, None], b, a), np.where(turn[:, None], a, b), np.where(turn, 1 - p, p)
    one, other = (fit_head(*rows, groups, l2=L2, seed=0) for rows in ((a, b, p), (c, d, q)))
    np.testing.assert_allclose(one.weight, other.weight, atol=1e-7)


def test_low_rank_keeps_only_the_leading_directions() -> None:
    rng = np.random.default_rng(3)
    basis = rng.normal(size=(2, 20))
    a, b = (rng.normal(size=(300, 2)) @ basis for _ in range(2))
    truth = np.linalg.pinv(basis)[:, 0]
    p = (1 / (1 + np.exp(-4 * (a - b) @ truth)) > rng.random(300)).astype(float)
    head = fit_head(a, b, p, range(300), l2=L2, seed=0, rank=2)
    assert (((a - b) @ head.weight > 0) == (p > 0.5)).mean() > 0.85


def test_constant_features_get_no_weight() -> None:
    a, b, p, groups = planted(120, 3, 2)
    a[:, 0] = b[:, 0] = 7.0
    assert fit_head(a, b, p, groups, l2=L2, seed=0).weight[0] == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=20, max_size=60), st.integers(2, 4), st.integers(0, 99))
def test_folds_never_divide_a_prompt(groups: list[int], folds: int, seed: int) -> None:
    if len(set(groups)) < folds:
        with pytest.raises(UserError):
            grouped_folds(groups, folds, seed=seed)
        return
    fold = grouped_folds(groups, folds, seed=seed)
    assert {g: {int(f) for f, h in zip(fold, groups) if h == g} for g in groups} == {
        g: {int(fold[groups.index(g)])} for g in groups
    }
    sizes = [len({g for g, f in zip(groups, fold) if f == k}) for k in range(folds)]
    assert max(sizes) - min(sizes) <= 1


def test_grouping_keeps_memorised_prompts_from_choosing_the_l2() -> None:
    """Features that only name the prompt predict copies of it and nothing else: without grouping a weak
    L2 looks best, with grouping the accuracy on unseen prompts is that of a coin."""
    rng = np.random.default_rng(0)
    label = (rng.random(60) < 0.5).astype(float)
    a = np.repeat(np.eye(60), 6, axis=0) + rng.normal(0, 0.01, (360, 60))
    p, groups = np.repeat(label, 6), np.repeat(np.arange(60), 6).tolist()
    grouped = fit_head(a, np.zeros_like(a), p, groups, l2=L2, seed=0)
    loose = fit_head(a, np.zeros_like(a), p, range(360), l2=L2, seed=0)
    assert min(t.loss for t in grouped.tried) > 0.6
    assert min(t.loss for t in loose.tried) < 0.2
    assert grouped.l2 > loose.l2


def test_ngrams_learn_a_word_and_the_folder_gives_the_same_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = ["time", "cost", "tools", "steps", "bread", "oven", "flour"]
    texts = [" ".join(rng.choice(words, 12)) for _ in range(240)]
    features = NgramFeatures(128)
    x = features([said(t) for t in texts])
    better = np.array([features([said(f"{t} thanks")])[0] for t in texts])
    head = fit_head(better, x, np.ones(240), range(240), l2=L2, seed=0)
    save_frozen_head(tmp_path, head, FeatureSettings(source="ngrams", dimensions=128), features.identity, {})
    reward = FrozenHeadSettings(folder=str(tmp_path), cache=str(tmp_path / "rows")).build("mine", _Resolver())
    new = " ".join(rng.choice(words, 12))
    plain, polite = reward.score([said(new), said(f"{new} thanks")])
    assert polite.value > plain.value
    np.testing.assert_allclose(plain.value, head(features([said(new)]))[0], rtol=1e-5)
    assert reward.score([]) == []


class _Resolver:
    def reward(self, name: str) -> object:
        raise AssertionError

    def policy(self, name: str) -> Engine:
        return causal()


def test_a_head_is_refused_on_another_backbone(tmp_path: Path) -> None:
    settings = FeatureSettings(source="causal", model="base", pooling="last")
    features = build_features(settings, lambda _: causal(0))
    x = features([said("one"), said("two words"), said("and three words")])
    head = fit_head(x[:2], x[1:], np.array([1.0, 0.0]), ["a", "b"], l2=[1.0], seed=0, folds=2)
    save_frozen_head(tmp_path, head, settings, features.identity, {})
    scores = load_frozen_head("h", tmp_path, lambda _: causal(0)).score([said("one")])
    assert scores[0].value == pytest.approx(head(x)[0])
    with pytest.raises(UserError, match="other features"):
        load_frozen_head("h", tmp_path, lambda _: causal(1))
    with pytest.raises(UserError, match="holds no frozen head"):
        load_frozen_head("h", tmp_path / "nowhere", no_policy)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("layer", [-1, 1])
def test_causal_features_do_not_depend_on_the_batch(pooling: str, layer: int) -> None:
    features = build_features(
        FeatureSettings.model_validate({"source": "causal", "pooling": pooling, "layer": layer}),
        lambda _: causal(),
    )
    rows = [said("The time you need is ten minutes."), said("No."), said("I am not sure about the tools.")]
    alone = np.concatenate([features([r]) for r in rows])
    np.testing.assert_allclose(features(rows), alone, atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3


def test_layers_differ_and_the_backbone_is_whole_again() -> None:
    engine = causal()
    deep, shallow = (
        build_features(FeatureSettings(source="causal", layer=k), lambda _: engine) for k in (-1, 1)
    )
    row = [said("The time you need is ten minutes.")]
    before = deep(row)
    assert np.abs(shallow(row) - before).max() > 1e-3
    np.testing.assert_array_equal(deep(row), before)
    assert deep.identity != shallow.identity
    with pytest.raises(UserError, match="layer 9"):
        build_features(FeatureSettings(source="causal", layer=9), lambda _: engine)(row)


def encoder_folder(folder: Path) -> Path:
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_encoder_features_see_the_prompt_and_not_the_batch(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path)
    features = build_features(FeatureSettings(source="encoder", model=str(folder), max_tokens=32), no_policy)
    rows = [said("bread"), said("The cost is about two dollars.", "Cost?"), said("bread", "Cost?")]
    together = features(rows)
    assert together.shape == (3, 33)
    np.testing.assert_allclose(together, np.concatenate([features([r]) for r in rows]), atol=1e-5)
    np.testing.assert_array_equal(together[0, :16], together[2, :16])
    assert np.abs(together[0, 16:32] - together[2, 16:32]).max() > 1e-4
    np.testing.assert_allclose(np.linalg.norm(together[:, :16], axis=1), 1)


def test_no_encoder_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no encoder"):
        build_features(FeatureSettings(source="encoder", model=str(tmp_path)), no_policy)


@pytest.mark.skipif(importlib.util.find_spec(MINILM) is None, reason="the extra `encoder` is not installed")
def test_the_packaged_encoder_puts_like_meanings_together() -> None:
    features = build_features(FeatureSettings(length=False), no_policy)
    a, b, c = features(
        [said("How do I bake bread?"), said("What is the way to make a loaf?"), said("Stock prices fell.")]
    )[:, :384]
    assert a @ b > a @ c + 0.2


class Counting:
    identity = "count"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, rollouts: list[Rollout]) -> np.ndarray:
        self.seen += [r.text for r in rollouts]
        return np.array([[len(r.text), 1.0] for r in rollouts])


def test_the_cache_computes_every_answer_once(tmp_path: Path) -> None:
    inner = Counting()
    first = CachedFeatures(inner, tmp_path)
    x = first([said("a"), said("bb"), said("a")])
    np.testing.assert_array_equal(x[:, 0], [1, 2, 1])
    again = CachedFeatures(inner, tmp_path)
    np.testing.assert_array_equal(again([said("bb"), said("ccc"), said("a")])[:, 0], [2, 3, 1])
    assert inner.seen == ["a", "bb", "ccc"]
    again([said("a", "Another prompt?")])
    assert inner.seen[-1] == "a"


def test_a_file_cut_by_a_crash_is_computed_again(tmp_path: Path) -> None:
    inner = Counting()
    CachedFeatures(inner, tmp_path)([said("a")])
    for file in (tmp_path / "count").glob("*.safetensors"):
        file.unlink()  # a crash between the two writes leaves the keys without the rows
    CachedFeatures(inner, tmp_path)([said("a")])
    assert inner.seen == ["a", "a"]


def test_answer_style_by_its_parts() -> None:
    good = "Baking needs three things:\n\n- flour\n- water\n- time\n\n" + " ".join(
        f"word{i}" for i in range(80)
    )
    scores = AnswerStyle().score([said(good), said(f"Sure, {good}"), said("go " * 100), said("")])
    values = [s.value for s in scores]
    assert values[0] == 1
    assert scores[1].parts["opener"] == 0
    assert scores[2].parts["repetition"] < 0.02
    assert values[3] == 0
    assert values[0] > values[1] > values[2]
