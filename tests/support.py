"""Small real models made on the spot, shared by tests."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from rewardlab.data.templates import TEMPLATES
from rewardlab.models.loading import Model

TEXT = [
    "How do I bake bread? Please cover time and cost.",
    "The time you need is ten minutes. The cost is about two dollars.",
    "user assistant system I am not sure about the tools.",
]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a chatml template; the pad token is the eos token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = TEMPLATES["chatml"]
    return fast


def tiny_config(family: Literal["llama", "qwen3"], tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    """A config with random-weight size: two layers of width 32, grouped-query attention."""
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "initializer_range": 0.2,  # far from uniform, so that wrong numbers show
    }
    if family == "qwen3":
        return Qwen3Config(**common, head_dim=8, tie_word_embeddings=True)
    return LlamaConfig(**common, tie_word_embeddings=False)


def tiny_policy(family: Literal["llama", "qwen3"] = "llama", seed: int = 0) -> Model:
    """A random causal LM with its tokenizer."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    net = AutoModelForCausalLM.from_config(tiny_config(family, tokenizer)).eval()
    return Model(net, tokenizer, "test")


def tiny_reward_model(family: Literal["llama", "qwen3"] = "llama", seed: int = 0) -> Model:
    """A random one-label classifier with its tokenizer."""
    tokenizer = tiny_tokenizer()
    config = tiny_config(family, tokenizer)
    config.num_labels = 1
    torch.manual_seed(seed)
    return Model(AutoModelForSequenceClassification.from_config(config).eval(), tokenizer, "test")


def windowed() -> Model:
    """Every token sees five tokens, itself included."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=5,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
    )
    return Model(AutoModelForCausalLM.from_config(config).eval(), tokenizer, "test")


def of_its_own() -> Model:
    """Bloom computes its attention itself, with position biases: no plan reaches it."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = BloomConfig(
        vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return Model(AutoModelForCausalLM.from_config(config).eval(), tokenizer, "test")


def save_policy(folder: Path, family: Literal["llama", "qwen3"] = "llama", seed: int = 0) -> Path:
    """A model folder on disk, as plain transformers writes it."""
    model = tiny_policy(family, seed)
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder
