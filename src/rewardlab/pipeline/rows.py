"""The rows of a stage: from files or from the world, checked, rendered, and noted in the manifest."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from rewardlab.core.errors import UserError
from rewardlab.core.types import Example, Messages, Pair, Prompt, Sequence, Steps
from rewardlab.data.load import (
    Loaded,
    check_disjoint,
    divide,
    read_examples,
    read_pairs,
    read_prompts,
    read_steps,
)
from rewardlab.data.rendering import (
    Rendered,
    UnrenderableError,
    render_example,
    render_pair,
    render_prompt,
    render_steps,
)
from rewardlab.data.steps import JOINERS, StepKind
from rewardlab.models.engine import Engine
from rewardlab.pipeline.context import Context
from rewardlab.pipeline.seeds import derive
from rewardlab.pipeline.stages.base import ProbeSettings, StageData, TrainingStage
from rewardlab.rollout.sampler import drawing
from rewardlab.training.algorithms.kto import AnswerRow
from rewardlab.training.algorithms.pointwise_reward import RatedRow
from rewardlab.training.algorithms.process_reward import StepRow
from rewardlab.training.demonstrations import prompt_ids
from rewardlab.training.pairs import PairRow
from rewardlab.training.probe import Probe

Row = TypeVar("Row", Example, Pair, Prompt, Steps)
Out = TypeVar("Out")
Load = Callable[[Context, StageData, str], Loaded[Row]]


def examples(
    context: Context, stage: TrainingStage, tokenizer: Any, *, train_all: bool = False
) -> tuple[list[Sequence], list[Sequence]]:
    """Rendered training and held-out conversations of a stage."""
    train, held_out, _ = sourced_examples(context, stage, tokenizer, train_all=train_all)
    return train, held_out


def sourced_examples(
    context: Context, stage: TrainingStage, tokenizer: Any, *, train_all: bool = False
) -> tuple[list[Sequence], list[Sequence], list[int]]:
    """`examples`, and the number of each training row's source in the stage's `data`."""

    def render(row: Example, tally: _Tally) -> Sequence:
        return tally.add(render_example(tokenizer, row, stage.max_tokens, train_all=train_all))

    train, held_out = _sides(context, stage, load_examples, render)
    return train.rendered, held_out, train.source


def pairs(context: Context, stage: TrainingStage, tokenizer: Any) -> tuple[list[PairRow], list[PairRow]]:
    """Rendered training and held-out pairs of a stage."""

    def render(pair: Pair, tally: _Tally) -> PairRow:
        chosen, rejected = render_pair(tokenizer, pair, stage.max_tokens)
        return PairRow(
            tally.add(chosen),
            tally.add(rejected),
            pair.label,
            pair.weight,
            pair.margin,
            _deviation(pair) if getattr(stage, "deviation_floor", None) is not None else None,
            _ratings(pair, names) if (names := getattr(stage, "ratings", None)) else None,
        )

    return _both(context, stage, load_pairs, render)


def judged(
    context: Context, stage: TrainingStage, tokenizer: Any, *, pairs: bool
) -> tuple[list[AnswerRow], list[AnswerRow]]:
    """Rendered training and held-out answers with a verdict each, from pairs or from rows with a `label`."""

    def render(row: Pair | Example, tally: _Tally) -> list[tuple[_Judged, Sequence]]:
        verdicts = _of_pair(row) if isinstance(row, Pair) else [_of_example(row)]
        return [(v, tally.add(render_example(tokenizer, v.example(), stage.max_tokens))) for v in verdicts]

    def matched(found: list[list[tuple[_Judged, Sequence]]]) -> list[AnswerRow]:
        flat = [verdict for row in found for verdict in row]
        ahead = len(found[0]) if found else 0
        rows = []
        for (own, answer), (other, _) in zip(flat, flat[ahead:] + flat[:ahead], strict=True):
            mixed = replace(own, answer=other.answer).example()
            mismatched = render_example(tokenizer, mixed, stage.max_tokens).sequence
            rows.append(AnswerRow(answer, own.label, mismatched))
        return rows

    if pairs:
        train, held_out = _both(context, stage, load_pairs, render)
    else:
        train, held_out = _both(context, stage, load_examples, render)
    return matched(train), matched(held_out)


@dataclass(frozen=True)
class _Judged:
    """An answer and whether it is good."""

    prompt: Messages
    answer: Messages
    label: float
    place: str

    def example(self) -> Example:
        """Only the answer is trained on."""
        trained = (*(False for _ in self.prompt), *(m.role == "assistant" for m in self.answer))
        return Example(self.prompt + self.answer, trained, place=self.place)


def _of_pair(pair: Pair) -> list[_Judged]:
    """The better answer as a good one, the other as a bad one; a soft label is the chance of that."""
    return [
        _Judged(pair.prompt, pair.chosen, pair.label, pair.place),
        _Judged(pair.prompt, pair.rejected, 1 - pair.label, pair.place),
    ]


def _of_example(row: Example) -> _Judged:
    """The last message is judged, by the row's `label`."""
    label = row.meta.get("label")
    if label not in (True, False):  # 1 and 0 too
        raise UnrenderableError(
            f"{row.place}: `label` is {label!r}, not true or false.",
            "Map the column with `columns: {label: ...}`, or use `rows_are: pairs`.",
        )
    return _Judged(row.messages[:-1], row.messages[-1:], float(label), row.place)


def rated(
    context: Context, stage: TrainingStage, tokenizer: Any, target: Callable[[float], float]
) -> tuple[list[RatedRow], list[RatedRow]]:
    """Rendered training and held-out answers with `target` of their `label`, a number or true or false."""

    def render(row: Example, tally: _Tally) -> RatedRow:
        label = row.meta.get("label")
        if not isinstance(label, int | float) or not math.isfinite(label):
            raise UnrenderableError(
                f"{row.place}: `label` is {label!r}, not a number.",
                "Map the column with `columns: {label: ...}`.",
            )
        try:
            wanted = target(float(label))
        except ValueError as problem:
            raise UnrenderableError(
                f"{row.place}: `label` is {label!r}, {problem}.",
                "Cut numbers into grades with `edges`, or choose another `head`.",
            ) from problem
        answer = _Judged(row.messages[:-1], row.messages[-1:], wanted, row.place)
        return RatedRow(tally.add(render_example(tokenizer, answer.example(), stage.max_tokens)), wanted)

    return _both(context, stage, load_ratings, render)


def _deviation(pair: Pair) -> float:
    """The column `deviation_chosen`."""
    value = pair.meta.get("deviation_chosen")
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1 <= value <= 1:
        raise UnrenderableError(
            f"{pair.place}: `deviation_chosen` is {value!r}, not a number from -1 to 1.",
            "Give it (for a label below 1/2 `deviation_rejected`), or leave deviation_floor out.",
        )
    return float(value)


def _ratings(pair: Pair, names: list[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The columns `<name>_chosen` and `<name>_rejected`; NaN where they are missing or null."""

    def rating(column: str) -> float:
        value = pair.meta.get(column)
        if value is not None and not isinstance(value, int | float):
            raise UnrenderableError(
                f"{pair.place}: `{column}` is {value!r}, not a number.", "Give a number, or null."
            )
        return math.nan if value is None else float(value)

    chosen, rejected = (tuple(rating(f"{n}_{side}") for n in names) for side in ("chosen", "rejected"))
    return chosen, rejected


def steps(
    context: Context, stage: TrainingStage, tokenizer: Any, kind: StepKind
) -> tuple[list[StepRow], list[StepRow]]:
    """Rendered training and held-out answers in steps; steps beyond `max_tokens` are left out."""

    def render(row: Steps, tally: _Tally) -> StepRow:
        rendered, ends = render_steps(tokenizer, row, JOINERS[kind], stage.max_tokens)
        labels = row.labels[: len(ends)]
        if all(y is None for y in labels):
            raise UnrenderableError(
                f"{row.place}: no labelled step lies within `max_tokens`.",
                "Raise `max_tokens`, or leave the row out (`on_bad_row: skip`).",
            )
        return StepRow(tally.add(rendered), tuple(ends), labels)

    return _both(context, stage, load_steps, render)


def prompts(
    context: Context, data: list[StageData], use: str, tokenizer: Any, max_tokens: int
) -> tuple[list[Prompt], list[list[int]]]:
    """Prompts and their ids up to where the policy begins."""

    def render(row: Prompt, tally: _Tally) -> list[int]:
        ids = render_prompt(tokenizer, row)
        tally.tokens += min(len(ids), max_tokens)
        tally.rows_cut_left += len(ids) > max_tokens
        return ids if len(ids) <= max_tokens else render_prompt(tokenizer, row, max_tokens)

    gathered = _gather(context, data, use, load_prompts, render)
    return gathered.rows, gathered.rendered


def demonstrations(
    context: Context, stage: TrainingStage, tokenizer: Any
) -> tuple[list[Prompt], list[list[int]], list[Sequence]]:
    """Prompts, their ids, and a demonstrated answer to each: the last message of a row."""

    def render(row: Example, tally: _Tally) -> Sequence:
        if row.messages[-1].role != "assistant":
            raise UnrenderableError(
                f"{row.place}: the last message is not the assistant's.", "End each row with an answer."
            )
        last = (*(False for _ in row.messages[:-1]), True)
        return tally.add(render_example(tokenizer, replace(row, trained=last), stage.max_tokens))

    gathered = _gather(context, stage.data, stage.name, load_examples, render)
    asked = [Prompt(r.messages[:-1], r.id, r.meta, r.place) for r in gathered.rows]
    return asked, [prompt_ids(s) for s in gathered.rendered], gathered.rendered


def probe(context: Context, settings: ProbeSettings | None, engine: Engine, stage: str) -> Probe | None:
    """The look at held-out prompts that a policy stage takes while it trains."""
    if settings is None:
        return None
    name = f"{stage}.probe"
    asked, ids = prompts(context, settings.data, name, engine.model.tokenizer, max_tokens=1024)
    return Probe(
        asked,
        ids,
        drawing(settings),
        [context.reward(r, engine) for r in settings.rewards],
        seed=derive(context.recipe.seed, name),
    )


def texts(
    context: Context, sources: list[StageData], name: str, kind: Literal["examples", "pairs"]
) -> Iterator[str]:
    """The text that a new tokenizer is trained on: every turn with its role."""
    for number, data in enumerate(sources):
        use = f"{name}.data.{number}"
        if kind == "pairs":
            pairs_ = load_pairs(context, data, use)
            conversations = [p.prompt + answer for p in pairs_.rows for answer in (p.chosen, p.rejected)]
        else:
            conversations = [e.messages for e in load_examples(context, data, use).rows]
        for messages in conversations:
            yield "\n".join(f"{m.role}\n{m.content}" for m in messages)


def load_examples(context: Context, data: StageData, use: str) -> Loaded[Example]:
    """Supervised rows; `world` gives demonstrations, `world:base_text` text of every quality."""

    def of_world(seed: int) -> list[Example]:
        if data.source == "world:base_text":
            return context.world.base_text(data.rows, seed=seed)
        return context.world.demonstrations(data.rows, split=data.split, seed=seed)

    return _load(context, data, use, read_examples, of_world)


def load_ratings(context: Context, data: StageData, use: str) -> Loaded[Example]:
    """Answers with a number in `meta["label"]`."""
    return _load(
        context,
        data,
        use,
        read_examples,
        lambda seed: context.world.ratings(data.rows, split=data.split, seed=seed),
    )


def load_pairs(context: Context, data: StageData, use: str) -> Loaded[Pair]:
    """Preference rows."""
    return _load(
        context,
        data,
        use,
        read_pairs,
        lambda seed: context.world.pairs(data.rows, split=data.split, seed=seed),
    )


def load_steps(context: Context, data: StageData, use: str) -> Loaded[Steps]:
    """Answers in steps."""
    return _load(
        context,
        data,
        use,
        read_steps,
        lambda seed: context.world.steps(data.rows, split=data.split, seed=seed),
    )


def load_prompts(context: Context, data: StageData, use: str) -> Loaded[Prompt]:
    """Prompts."""
    return _load(
        context,
        data,
        use,
        read_prompts,
        lambda seed: context.world.prompts(data.rows, split=data.split, seed=seed),
    )


def _load(
    context: Context,
    data: StageData,
    use: str,
    read: Callable[[StageData], Loaded[Row]],
    of_world: Callable[[int], list[Row]],
) -> Loaded[Row]:
    """Rows of a source with its held-out part; `split: heldout` of a divided file is that part."""
    if data.source.split(":")[0] != "world":
        root = Path(context.recipe.data_root)
        local = not data.source.startswith("hf:")
        source = str(root / data.source) if local else data.source
        loaded = read(data.model_copy(update={"source": source}))
        loaded.source = data.source
        if data.split == "heldout" and data.heldout_fraction:
            loaded.rows, loaded.held_out = loaded.held_out, []
    else:
        made = of_world(derive(context.recipe.seed, use))
        digest = hashlib.sha256(json.dumps([asdict(row) for row in made]).encode()).hexdigest()
        loaded = Loaded(f"{data.source} ({data.split})", made, sha256=digest, read=len(made))
        divide(loaded, data.heldout_fraction)
    if not loaded.rows:
        raise UserError(
            f"{use}: {data.source} gives no row.", "Check `limit`, `rows` and `heldout_fraction`."
        )
    return loaded


@dataclass
class _Tally:
    """What rendering did, for the manifest."""

    tokens: int = 0
    trained_tokens: int = 0
    rows_cut_left: int = 0
    rows_cut_right: int = 0
    rows_with_straddling_tokens: int = 0

    def add(self, rendered: Rendered) -> Sequence:
        """Count a rendered row."""
        self.tokens += len(rendered.sequence)
        self.trained_tokens += rendered.sequence.actions
        self.rows_cut_left += rendered.cut_left > 0
        self.rows_cut_right += rendered.cut_right > 0
        self.rows_with_straddling_tokens += rendered.straddles
        return rendered.sequence


@dataclass
class _Gathered(Generic[Row, Out]):
    rows: list[Row] = field(default_factory=list)
    rendered: list[Out] = field(default_factory=list)
    held_out_rows: list[Row] = field(default_factory=list)
    held_out: list[Out] = field(default_factory=list)
    source: list[int] = field(default_factory=list)
    """The source that each of `rows` is from."""


def _gather(
    context: Context,
    sources: list[StageData],
    use: str,
    load: Load[Row],
    render: Callable[[Row, _Tally], Out],
) -> _Gathered[Row, Out]:
    """Load and render all sources; a row that cannot be rendered is a bad row of its source."""
    gathered: _Gathered[Row, Out] = _Gathered()
    for number, data in enumerate(sources):
        name = f"{use}.data.{number}" if len(sources) > 1 else f"{use}.data"
        loaded, tally = load(context, data, name), _Tally()
        sides = (
            (loaded.rows, gathered.rows, gathered.rendered),
            (loaded.held_out, gathered.held_out_rows, gathered.held_out),
        )
        with context.progress.task(f"{use}: reading", len(loaded.rows) + len(loaded.held_out)) as task:
            for found, rows, rendered in sides:
                for row in found:
                    task.advance()
                    try:
                        rendered.append(render(row, tally))
                    except UserError as error:
                        if data.on_bad_row == "error":
                            raise
                        loaded.bad.append((row.place, error.problem))
                        continue
                    rows.append(row)
        gathered.source += [number] * (len(gathered.rows) - len(gathered.source))
        if not gathered.rendered:
            raise UserError(f"{use}: no row of {data.source} could be rendered.", f"{loaded.bad[0][1]}")
        context.run.add_data(name, loaded.facts() | {k: v for k, v in asdict(tally).items() if v})
        if tally.rows_cut_left or tally.rows_cut_right:
            context.warnings.append(
                f"{name}: {tally.rows_cut_left} rows lost the left end of their prompt and "
                f"{tally.rows_cut_right} the right end of their answer to `max_tokens`."
            )
    return gathered


def _both(
    context: Context, stage: TrainingStage, load: Load[Row], render: Callable[[Row, _Tally], Out]
) -> tuple[list[Out], list[Out]]:
    """Training and held-out rows; a prompt that stands on both sides is refused."""
    train, held_out = _sides(context, stage, load, render)
    return train.rendered, held_out


def _sides(
    context: Context, stage: TrainingStage, load: Load[Row], render: Callable[[Row, _Tally], Out]
) -> tuple[_Gathered[Row, Out], list[Out]]:
    """All that is known of the training rows, and the held-out ones."""
    train = _gather(context, stage.data, stage.name, load, render)
    if stage.held_out is None:
        return train, train.held_out
    other = _gather(context, stage.held_out, f"{stage.name}.held_out", load, render)
    check_disjoint(train.rows, other.rows)
    return train, other.rendered
