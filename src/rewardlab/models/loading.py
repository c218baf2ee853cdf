"""Load and save causal LMs and reward models in the Hugging Face formats.

A model is `embedded:NAME` (a checkpoint inside this package), a folder, a PEFT adapter folder (merged
into its base on loading), or a Hugging Face id. Weights are safetensors only; remote code is never run.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from rewardlab.core.errors import UserError
from rewardlab.core.settings import Settings
from rewardlab.data.templates import ensure_chat_template

EMBEDDED = Path(__file__).parent / "embedded"


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on every linear layer but the head."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"
    """Module names as PEFT understands them."""


class ModelSettings(Settings):
    """Which model, and how it is adapted."""

    path: str
    """`embedded:NAME`, a folder, or a Hugging Face id."""
    chat_template: str | None = None
    """Name of a template we ship, for a tokenizer that has none: `plain` or `chatml`."""


@dataclass
class Model:
    """A network with its tokenizer: a policy (`causal`) or a reward model (`reward`)."""

    net: nn.Module
    tokenizer: Any
    source: str

    @property
    def hf(self) -> Any:
        """The transformers model, whether or not adapters are on it."""
        return self.net.get_base_model() if isinstance(self.net, PeftModel) else self.net

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        return next(self.net.parameters()).device

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: the tokenizer's eos and those of the generation config."""
        found: list[int] = []
        generation = getattr(self.hf, "generation_config", None)
        for value in (self.tokenizer.eos_token_id, getattr(generation, "eos_token_id", None)):
            found += value if isinstance(value, list) else [] if value is None else [value]
        return tuple(dict.fromkeys(found))


def resolve(path: str) -> str:
    """The folder or Hugging Face id behind a model path, checked as far as it can be without loading."""
    if path.startswith("embedded:"):
        name = path.removeprefix("embedded:")
        folder = EMBEDDED / name
        known = sorted(p.parent.name for p in EMBEDDED.glob("*/config.json"))
        if not (folder / "config.json").is_file():
            raise UserError(
                f"there is no embedded checkpoint {name!r}.",
                f"Embedded here: {', '.join(known) or 'none'}.",
            )
        return str(folder)
    folder = Path(path).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return str(folder)
    looks_like_path = path.startswith((".", "/", "~")) or path.count("/") != 1
    if looks_like_path:
        near = difflib.get_close_matches(
            folder.name, [p.name for p in folder.parent.glob("*")] if folder.parent.is_dir() else []
        )
        hint = f"Did you mean {folder.parent / near[0]}?" if near else "Give a folder with a config.json."
        raise UserError(f"model: the folder {path} does not exist.", hint)
    return path


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        return
    if not (folder / "config.json").is_file():
        raise UserError(
            f"model: {folder} has no config.json, so it is not a model folder.",
            "Point `model:` at the folder that holds config.json and *.safetensors.",
        )
    if not any((folder / f).is_file() for f in ("tokenizer.json", "tokenizer_config.json")):
        raise UserError(
            f"model: {folder} has no tokenizer (tokenizer.json is missing).",
            "Copy the tokenizer files of the base model into it, or save them with "
            "tokenizer.save_pretrained(folder).",
        )


def _load(auto: Any, settings: ModelSettings, **kwargs: Any) -> Model:
    source = resolve(settings.path)
    adapter = Path(source) / "adapter_config.json"
    base = source
    if adapter.is_file():
        base = resolve(json.loads(adapter.read_text())["base_model_name_or_path"])
    with _loading(settings.path):
        tokenizer = AutoTokenizer.from_pretrained(source if _has_tokenizer(source) else base)
        net = auto.from_pretrained(base, dtype=torch.float32, attn_implementation="sdpa", **kwargs)
    if adapter.is_file():
        net = PeftModel.from_pretrained(net, source).merge_and_unload()
    # transformers gives the pad token's embedding no gradient; where pad is eos, that would leave the
    # stop token's embedding untrained. Our layouts never need a pad token, so the exception is lifted.
    net.get_input_embeddings().padding_idx = None
    ensure_chat_template(tokenizer, settings.chat_template)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Model(net, tokenizer, settings.path)


@contextmanager
def _loading(path: str) -> Iterator[None]:
    """What the hub or the disk refuses becomes one clear message."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"model: {path} could not be loaded ({str(error).splitlines()[0]}).",
            "Give a local folder, or check the id and the connection to the hub.",
        ) from error


def _has_tokenizer(folder: str) -> bool:
    return not Path(folder).is_dir() or any(
        (Path(folder) / f).is_file() for f in ("tokenizer.json", "tokenizer_config.json")
    )


def load_policy(settings: ModelSettings) -> Model:
    """A causal LM with fp32 master weights.

    A reward model is refused: transformers would give it a new, random language-model head.
    """
    if _classifies(resolve(settings.path)):
        raise UserError(
            f"model: {settings.path} is a reward model, not a language model.",
            "Name an `sft` stage, a policy's folder or a Hugging Face causal LM.",
        )
    return _load(AutoModelForCausalLM, settings)


def load_reward_model(settings: ModelSettings, *, seed: int | None = None) -> Model:
    """A reward model: backbone and a one-output linear head, in the Hugging Face classification format.

    From a causal LM's folder the head is new: zero mean, standard deviation 1 / hidden size, drawn from
    `seed`, so that scores start near zero. Any Hugging Face sequence-classification reward model with
    one label loads as it is.
    """
    source = resolve(settings.path)
    fresh = not _classifies(source)
    if fresh and seed is None:
        raise UserError(
            f"reward: {settings.path} is a language model without a reward head.",
            "Train one with a `reward` stage, or give a sequence-classification model.",
        )
    model = _load(AutoModelForSequenceClassification, settings, num_labels=1)
    model.hf.config.pad_token_id = model.tokenizer.pad_token_id
    if fresh and seed is not None:
        weight = model.hf.score.weight
        draw = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        weight.data.copy_(draw / weight.shape[1])
    return model


def _classifies(source: str) -> bool:
    """Whether a folder's config says that it is a sequence classifier."""
    file = Path(source) / "config.json"
    found = json.loads(file.read_text()).get("architectures") if file.is_file() else None
    if not Path(source).is_dir():
        with _loading(source):
            found = AutoConfig.from_pretrained(source).architectures
    return any("SequenceClassification" in name for name in found or ())


def add_lora(model: Model, settings: LoraSettings, *, reward_head: bool, seed: int) -> Model:
    """Freeze the network and put adapters on it; a reward head stays trainable in full."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # PEFT draws A from the global generator
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]
            lora_dropout=settings.dropout,
            target_modules=settings.target_modules,
            modules_to_save=["score"] if reward_head else None,
            task_type="SEQ_CLS" if reward_head else "CAUSAL_LM",
        )
        net = get_peft_model(model.hf, config)
    return Model(net, model.tokenizer, model.source)


def save(model: Model, folder: Path) -> None:
    """Write a folder that plain transformers loads; with adapters, the merged model and `adapter/`."""
    folder.mkdir(parents=True, exist_ok=True)
    net = model.net
    if isinstance(net, PeftModel):
        net.save_pretrained(str(folder / "adapter"), safe_serialization=True)
        net.merge_adapter()
        base: Any = net.get_base_model()
        try:
            state = {  # names as plain transformers has them
                k.replace(".base_layer.", ".").replace(".modules_to_save.default.", "."): v
                for k, v in base.state_dict().items()
                if "lora_" not in k and ".original_module." not in k
            }
            base.save_pretrained(folder, state_dict=state)
        finally:
            net.unmerge_adapter()
    else:
        model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def same_tokenizer(a: Model, b: Model) -> bool:
    """Whether ids mean the same to both: equal vocabularies and equal chat templates."""
    vocabularies: bool = a.tokenizer.get_vocab() == b.tokenizer.get_vocab()
    templates: bool = a.tokenizer.chat_template == b.tokenizer.chat_template
    return vocabularies and templates
