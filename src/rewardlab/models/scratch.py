"""A new small model folder: byte-level BPE tokenizer trained on given text, random Llama weights.

For models that have no pretrained parent: the embedded checkpoints, and experiments from nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rewardlab.core.settings import Settings
from rewardlab.data.templates import TEMPLATES


class ScratchSettings(Settings):
    """Size of a new model; the defaults make about one million parameters."""

    vocabulary: int = 1024
    """Upper bound of the tokenizer's vocabulary, special tokens included."""
    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 352
    context: int = 512
    """Largest sequence length in tokens."""


def make(settings: ScratchSettings, texts: Iterable[str], folder: Path, *, seed: int) -> int:
    """Train the tokenizer, draw the weights, write the folder; returns the number of parameters.

    Every byte is a token, so any text can be read; the chat template is the plain `chatml` one, whose
    end-of-turn token is also the eos and pad token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", bos_token=None
    )
    fast.chat_template = TEMPLATES["chatml"]
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())
