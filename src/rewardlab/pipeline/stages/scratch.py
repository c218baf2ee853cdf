"""A new model folder: a tokenizer trained on the data's text, and random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rewardlab.models import scratch
from rewardlab.models.scratch import ScratchSettings
from rewardlab.pipeline import rows
from rewardlab.pipeline.seeds import derive
from rewardlab.pipeline.stages.base import Outcome, Sources, Stage

if TYPE_CHECKING:
    from rewardlab.pipeline.context import Context


class ScratchStage(Stage, ScratchSettings):
    """A model that has no parent."""

    kind: Literal["scratch"] = "scratch"
    data: Sources
    """Rows whose text trains the tokenizer: conversations or pairs, as `text_from` says."""
    text_from: Literal["examples", "pairs"] = "examples"

    def run(self, context: Context) -> Outcome:
        """Make the folder."""
        texts = rows.texts(context, self.data, self.name, self.text_from)
        output = context.run.stage(self.name).output
        size = scratch.make(self, texts, output, seed=derive(context.recipe.seed, self.name))
        return {"final": {"parameters": float(size)}}
