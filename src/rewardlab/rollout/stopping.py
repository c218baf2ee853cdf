"""When an answer has ended: at a stop token, or where one of the given texts is complete."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import StopStringCriteria

from rewardlab.core.errors import UserError
from rewardlab.models.loading import Model

_NOTHING = torch.iinfo(torch.int32).max
"""No token: it stands before an answer's first, and no text continues over it."""


class Stopping:
    """stopping(ids Long[R, M], at Long[R]) -> Bool[R]: whether row r of answers ends with its token at[r].

    Texts are found in the tokens' own bytes, wherever tokens begin and end, and in the answer alone: a text
    that the prompt begins does not count. The token that completes a text is the answer's last and belongs
    to it whole, so an answer can have a few characters behind the text.
    """

    def __init__(self, model: Model, texts: Sequence[str] = ()) -> None:
        """UserError for a text that no tokens of this model make."""
        self.tokens = torch.tensor(model.stop_ids, device=model.device)
        self.texts: StopStringCriteria | None = None
        if not texts:
            return
        if not all(texts):
            raise UserError("stop_sequences: an empty text.", "Leave it out.")
        try:
            self.texts = StopStringCriteria(model.tokenizer, list(texts))
        except ValueError:
            raise UserError(
                f"stop_sequences: the tokenizer of {model.source} makes no text like {list(texts)}.",
                "Give texts of characters that its tokens have.",
            ) from None

    def __call__(self, ids: Tensor, at: Tensor) -> Tensor:
        last = ids.gather(1, at[:, None])
        ended = torch.isin(last[:, 0], self.tokens)
        if self.texts is not None:
            back = torch.arange(self.texts.maximum_token_len - 1, -1, -1, device=ids.device)
            place = at[:, None] - back
            tail = ids.gather(1, place.clamp(min=0)).where(place >= 0, _NOTHING)
            ended |= self.texts(tail, None)  # type: ignore[arg-type]
        return ended
