"""Chat templates for tokenizers that have none."""

from __future__ import annotations

from typing import Any

from rewardlab.core.errors import UserError

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "plain": (
        "{% for m in messages %}"
        "{% if m.role == 'assistant' %}Assistant: {{ m.content }}{{ eos_token }}\n"
        "{% else %}{{ m.role | capitalize }}: {{ m.content }}\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
}
"""`chatml` needs its two markers in the vocabulary to be cheap; `plain` needs only an eos token."""


def ensure_chat_template(tokenizer: Any, name: str | None) -> None:
    """Give the tokenizer the template called `name`; without a name it must have its own."""
    if name is not None:
        if name not in TEMPLATES:
            raise UserError(f"there is no chat template {name!r}.", f"Use one of {', '.join(TEMPLATES)}.")
        tokenizer.chat_template = TEMPLATES[name]
    if not tokenizer.chat_template:
        raise UserError(
            "the tokenizer has no chat template.",
            f"Set `model: {{path: ..., chat_template: NAME}}` with one of {', '.join(TEMPLATES)}.",
        )
