"""The report card of a reward: is it right, calibrated, biased, stable, exploitable?"""

from __future__ import annotations

from rewardlab.audit.report import audit_reward
from rewardlab.audit.scoring import rollouts_of
from rewardlab.audit.sections import full_audit
from rewardlab.audit.subject import JudgedSubject, ScoredSubject

__all__ = ["JudgedSubject", "ScoredSubject", "audit_reward", "full_audit", "rollouts_of"]
