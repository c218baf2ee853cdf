"""The report card of a reward: is it right, calibrated, fooled by length, moved by padding?"""

from __future__ import annotations

from rewardlab.audit.report import audit_reward
from rewardlab.audit.scoring import rollouts_of

__all__ = ["audit_reward", "rollouts_of"]
