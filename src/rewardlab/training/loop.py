"""The one training loop: batch -> micro-batches -> terms -> gradient -> step -> record.

It knows nothing of any algorithm. Checkpoints hold everything the next step depends on, so a killed run
that is started again ends in the same bits as one that was never killed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardlab.core.batch import Batch
from rewardlab.core.errors import UserError
from rewardlab.core.progress import NO_PROGRESS, Progress
from rewardlab.core.settings import Settings
from rewardlab.models import memory
from rewardlab.objectives.reduction import Terms, reduce
from rewardlab.records import checkpoints
from rewardlab.records.run import StageRecord
from rewardlab.training import optimiser
from rewardlab.training.algorithm import Algorithm
from rewardlab.training.optimiser import OptimiserSettings

MAX_SKIPPED_IN_A_ROW = 20


class LoopSettings(Settings):
    """How long to train, and when to look and save."""

    steps: int = 100
    """Optimiser steps (for online algorithms: rounds of sampling)."""
    evaluate_every: int = 0
    """Steps between evaluations; 0 evaluates only at the end."""
    checkpoint_every: int = 50
    """Steps between checkpoints; a killed run repeats at most this many."""
    patience: int = 0
    """Stop after this many evaluations without a lower `eval_loss` and keep the best; 0 never stops."""
    optimiser: OptimiserSettings = OptimiserSettings()


@dataclass
class Progressed:
    """Where a loop stands; saved with every checkpoint."""

    step: int = 0
    skipped: int = 0
    """Updates not taken because loss or gradient was not finite."""
    best: float = math.inf
    waited: int = 0
    """Evaluations since the best one."""
    seconds: float = 0.0
    stopped: bool = False
    last: dict[str, float] = field(default_factory=dict)


Callback = Callable[[int, Mapping[str, float]], None]


def train(
    algorithm: Algorithm,
    settings: LoopSettings,
    record: StageRecord,
    *,
    progress: Progress = NO_PROGRESS,
    callbacks: tuple[Callback, ...] = (),
) -> Progressed:
    """Train to the end, continuing from the newest sound checkpoint of this stage if there is one."""
    net = algorithm.engine.model.net
    parameters = algorithm.engine.parameters
    adam = optimiser.build(settings.optimiser, parameters, algorithm.learning_rates)
    at = Progressed()
    if (newest := checkpoints.latest(record.checkpoints)) is not None:
        at = _restore(newest, algorithm, adam)
    record.truncate_to(at.step)
    net.train()
    settled = False
    with progress.task(record.name, settings.steps, completed=at.step) as task:
        while at.step < settings.steps and not at.stopped:
            started = time.perf_counter()
            lr = optimiser.rate(settings.optimiser, at.step, settings.steps)
            for group in adam.param_groups:
                group["lr"] = optimiser.rate(settings.optimiser, at.step, settings.steps, group["peak"])
            batches, numbers = algorithm.batches(at.step)
            metrics = dict(numbers)
            for batch in batches:
                if not settled:
                    memory.settle(algorithm.engine, batch, settings.optimiser.state)
                    settled = True
                update = _update(algorithm, batch, adam, settings.optimiser.max_grad_norm)
                at.skipped = at.skipped + 1 if update.pop("finite") == 0.0 else at.skipped
                metrics.update(update)
            at.step += 1
            last = at.step == settings.steps
            if last or (settings.evaluate_every and at.step % settings.evaluate_every == 0):
                metrics.update(algorithm.evaluate())
                _judge(at, metrics, settings.patience)
            metrics |= {"learning_rate": lr, "skipped_updates": float(at.skipped)}
            _refuse_dead(at, record, metrics)
            elapsed = time.perf_counter() - started
            at.seconds += elapsed
            record.metrics(at.step, **metrics, seconds=elapsed)
            at.last.update(metrics)
            if at.best == metrics.get("eval_loss") and settings.patience:
                checkpoints.save(record.checkpoints, at.step, _writer(algorithm, adam, at), best=True)
            if at.step % settings.checkpoint_every == 0 or last or at.stopped:
                checkpoints.save(record.checkpoints, at.step, _writer(algorithm, adam, at))
            for callback in callbacks:
                callback(at.step, metrics)
            task.advance(1, metrics)
    if settings.patience and (best := checkpoints.best(record.checkpoints)) is not None:
        _restore(best, algorithm, adam)
    net.eval()
    return at


def _update(
    algorithm: Algorithm, batch: Batch, adam: torch.optim.Optimizer, max_norm: float
) -> dict[str, float]:
    """One optimiser step over all micro-batches; a non-finite loss or gradient is never stepped on."""
    engine = algorithm.engine
    adam.zero_grad(set_to_none=True)
    counts = batch.counts()
    sums: dict[str, Tensor] = {}  # on the device: nothing waits for it before the last micro-batch
    for micro in engine.microbatches(batch):
        micro = micro.to(engine.model.device)
        terms = algorithm.objective(algorithm.compute(micro), micro)
        loss = reduce(terms, counts)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        found = {name: term.mean(counts) for name, term in terms.items()} | {"loss": loss}
        for name, value in found.items():
            sums[name] = sums.get(name, 0.0) + value.detach().double()
    parameters = [p for p in engine.parameters.values() if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm) if parameters else torch.zeros(())
    numbers = {name: value.item() for name, value in sums.items()} | {"grad_norm": norm.item()}
    finite = math.isfinite(numbers.get("loss", 0.0)) and math.isfinite(numbers["grad_norm"])
    if finite:
        adam.step()
    adam.zero_grad(set_to_none=True)
    return {k: v for k, v in numbers.items() if math.isfinite(v)} | {"finite": float(finite)}


def mean_terms(algorithm: Algorithm, batch: Batch, prefix: str = "eval_") -> dict[str, float]:
    """The objective's terms as means over a whole held-out batch, without gradient; `<prefix>loss` too."""
    counts = batch.counts()
    sums: dict[str, float] = {}
    with algorithm.engine.frozen():
        for micro in algorithm.engine.microbatches(batch):
            micro = micro.to(algorithm.engine.model.device)
            terms: Terms = algorithm.objective(algorithm.compute(micro), micro)
            sums[prefix + "loss"] = sums.get(prefix + "loss", 0.0) + reduce(terms, counts).item()
            for name, term in terms.items():
                key = prefix + name
                sums[key] = sums.get(key, 0.0) + term.mean(counts).item()
    return sums


def _judge(at: Progressed, metrics: Mapping[str, float], patience: int) -> None:
    """Early stopping on `eval_loss`."""
    loss = metrics.get("eval_loss", math.inf)
    if loss < at.best:
        at.best, at.waited = loss, 0
    else:
        at.waited += 1
        at.stopped = bool(patience) and at.waited >= patience


def _refuse_dead(at: Progressed, record: StageRecord, metrics: Mapping[str, float]) -> None:
    """Stop a run that only ever produces non-finite updates: it would end with an untrained model."""
    if at.skipped >= MAX_SKIPPED_IN_A_ROW and at.skipped >= at.step:
        raise UserError(
            f"stage {record.name}: all of the first {at.step} updates had a non-finite loss or gradient.",
            "Lower `learning_rate`, or use `precision: fp32`; nothing was stepped on.",
        )


def _writer(algorithm: Algorithm, adam: torch.optim.Optimizer, at: Progressed) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        tree: dict[str, Any] = {
            "parameters": {k: p.detach() for k, p in algorithm.engine.parameters.items()},
            "optimiser": adam.state_dict(),
            "algorithm": algorithm.state(),
            "torch_rng": torch.get_rng_state(),
            "at": vars(at),
        }
        checkpoints.save_state(folder, tree)

    return write


def _restore(folder: Path, algorithm: Algorithm, adam: torch.optim.Optimizer) -> Progressed:
    tree = checkpoints.load_state(folder)
    with torch.no_grad():
        for name, parameter in algorithm.engine.parameters.items():
            parameter.copy_(tree["parameters"][name])
    adam.load_state_dict(tree["optimiser"])
    algorithm.load_state(tree["algorithm"])
    torch.set_rng_state(tree["torch_rng"])
    return Progressed(**tree["at"])
