"""A policy with a critic beside it or on its trunk, as one engine with one set of parameters."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from rewardlab.core.batch import Batch, Outputs
from rewardlab.core.errors import UserError
from rewardlab.models.engine import Engine, before_actions
from rewardlab.models.loading import Model, same_tokenizer

PREFIX = "critic."
"""What the names of the critic's parameters begin with."""


def value_head(model: Model) -> nn.Linear:
    """A linear head for a policy's trunk, fp32 and zero: every value is 0 before the first update."""
    head = nn.Linear(model.hf.config.get_text_config().hidden_size, 1, device=model.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


class ActorCritic(Engine):
    """The policy's engine, whose `parameters` hold the critic's too.

    The critic is a second model with a reward head, read at every token, or a `value_head` on the policy's
    own hidden states: one forward pass for both, and the value loss moves the trunk. A second model
    is used without dropout. What is sampled from and saved as the model is the policy alone.
    """

    def __init__(self, policy: Engine, critic: Engine | nn.Linear) -> None:
        super().__init__(policy.model, policy.settings)
        self.critic = critic
        if isinstance(critic, Engine) and not same_tokenizer(critic.model, policy.model):
            raise UserError(
                f"the critic {critic.model.source} has another tokenizer or chat template than the policy.",
                "Start it from the policy's own model, or from a reward model trained on that one.",
            )

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The trainable parameters by name, the critic's under `critic.`."""
        critic = self.critic
        own = critic.parameters if isinstance(critic, Engine) else dict(critic.named_parameters())
        return super().parameters | {PREFIX + name: p for name, p in own.items()}

    def logprobs_and_values(self, batch: Batch) -> Outputs:
        """`logp`, `entropy` and `values` of the actions."""
        if isinstance(self.critic, nn.Linear):
            return self.logprobs(batch, entropy=True, value_head=self.critic)
        return replace(self.logprobs(batch, entropy=True), values=self.critic.values(batch).values)

    def frozen_values(self, batch: Batch) -> Tensor:
        """Float[T]: values of a whole batch without gradient, on the CPU."""
        critic = self.critic
        if isinstance(critic, Engine):
            return critic.frozen_tokens(batch, lambda micro: critic.values(micro).values)

        def values(micro: Batch) -> Tensor:
            micro = micro.to(self.model.device)
            return before_actions(critic(self.hidden(micro).float()).squeeze(-1), micro)

        return self.frozen_tokens(batch, values)

    def frozen_last_values(self, batch: Batch) -> Tensor:
        """Float[N]: values of the states after each whole sequence, without gradient, on the CPU."""
        critic = self.critic
        if isinstance(critic, Engine):
            return critic.frozen_scores(batch)
        found = torch.zeros(batch.size)
        with self.frozen():
            for rows in self.split(batch):
                micro = batch.select(rows).to(self.model.device)
                hidden = self.hidden(micro, micro.offsets[1:] - 1)
                found[rows] = critic(hidden.float()).squeeze(-1).cpu()
        return found
