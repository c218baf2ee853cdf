"""The page holds what the folder holds: safely, completely, and with nothing from elsewhere."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rewardlab.core.errors import UserError
from rewardlab.reporting import build_report

Write = Callable[..., Path]
RL_ROWS = [{"step": s, "reward": 0.1 * s, "gold": -0.1 * s, "kl": s, "entropy": 1.0} for s in range(4)]
SFT_ROWS = [{"step": s, "loss": 2.0 - 0.1 * s, "eval_loss": 2.1 - 0.1 * s} for s in range(4)]


class Page(HTMLParser):
    """Tags, visible text and the text of each element with an id or a class."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.hidden = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        self.hidden += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def ids(self) -> list[str]:
        return [a["id"] for _, a in self.tags if "id" in a]


def read(folder: Path) -> tuple[str, Page]:
    html = build_report(folder).read_text(encoding="utf-8")
    return html, Page(html)


def full(write_run: Write, summary: dict[str, Any]) -> Path:
    manifest = {
        "versions": {"torch": "2.13.0"},
        "data": {"pairs": {"sha256": "ab" * 32, "rows": 10, "bad_rows": 3}},
    }
    metrics = {"sft": SFT_ROWS, "grpo": RL_ROWS}
    return write_run(summary, metrics, recipe_yaml="name: x # <why>\n", manifest_json=json.dumps(manifest))


def test_the_page_asks_the_network_for_nothing(write_run: Write, summary: dict[str, Any]) -> None:
    html, page = read(full(write_run, summary))
    for tag, attributes in page.tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form"), tag
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    assert not re.search(r"https?://|url\((?!#)|@import", html)
    policies = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv")]
    assert len(policies) == 1
    assert "default-src 'none'" in policies[0]


def test_hostile_text_stays_text(write_run: Write, summary: dict[str, Any]) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'$x^$"
    metric, stage = "<b>m</b>", "a$\\b<i>"
    summary["samples"][0]["answers"][0]["text"] = evil
    summary["samples"][0]["prompt"] = evil
    summary["question"] = summary["name"] = evil
    summary["policies"][evil] = {metric: 0.5}
    summary["warnings"] = [evil]
    summary["reward_model"]["verdicts"][0]["text"] = evil
    rows = [{"step": s, "reward": 0.1 * s, evil: 1.0} for s in range(3)]
    html, page = read(write_run(summary, {stage: rows}, recipe_yaml=evil))
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any(tag in ("img", "b", "i") and a for tag, a in page.tags)
    assert not any(name.startswith("on") for _, a in page.tags for name in a)
    assert page.text.count("alert(1)") >= 6  # and yet the reader sees what was written
    assert "<script>alert" not in html


def test_every_interval_of_the_summary_is_shown(write_run: Write, summary: dict[str, Any]) -> None:
    _, page = read(full(write_run, summary))

    def shown(value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                shown(item)
        elif isinstance(value, dict):
            if "low" in value and "high" in value:
                pattern = rf"\[{_rounded(value['low'])}0*, {_rounded(value['high'])}0*\]"
                assert re.search(pattern, page.text), value
                assert f"{value['n']:,}" in page.text
            for item in value.values():
                shown(item)

    shown({k: summary[k] for k in ("policies", "comparisons", "reward_model")})
    assert "politeness" in page.text


def _rounded(value: float) -> str:
    return re.escape(f"{value:g}".replace("-", "−"))


def test_every_source_is_listed_with_its_hash(write_run: Write, summary: dict[str, Any]) -> None:
    folder = full(write_run, summary)
    _, page = read(folder)
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "report.html"]
    assert len(files) == 5
    for path in files:
        assert path.relative_to(folder).as_posix() in page.text
        assert hashlib.sha256(path.read_bytes()).hexdigest() in page.text
    assert not list(folder.glob("*.part"))


def test_the_same_folder_gives_the_same_bytes(write_run: Write, summary: dict[str, Any]) -> None:
    folder = full(write_run, summary)
    assert build_report(folder).read_bytes() == build_report(folder).read_bytes()


def test_charts_speak_and_no_id_is_used_twice(write_run: Write, summary: dict[str, Any]) -> None:
    summary["stages"].append({"name": "grpo.2", "kind": "grpo"})
    html, page = read(
        write_run(summary, {"sft": SFT_ROWS, "grpo": RL_ROWS, "grpo.2": RL_ROWS, "grpo 2": RL_ROWS})
    )
    ids = Counter(page.ids())
    assert not [name for name, count in ids.items() if count > 1]
    charts = [a for tag, a in page.tags if tag == "svg" and "chart" in a.get("class", "")]
    assert len(charts) >= 8
    for chart in charts:
        assert chart["role"] == "img"
        assert all(name in ids for name in chart["aria-labelledby"].split())
    for target in re.findall(r'(?:url\(|href=")#([\w.-]+)', html):
        assert target in ids, target
    assert "Proxy reward: 0 at step 0, 0.3 at step 3. Gold reward: 0 at step 0, −0.3 at step 3." in page.text
    assert "never saw gold" in page.text


@pytest.mark.parametrize(
    "missing", ["policies", "comparisons", "reward_model", "samples", "stages", "seed", "judge"]
)
def test_any_part_may_be_missing(write_run: Write, summary: dict[str, Any], missing: str) -> None:
    without, empty = copy.deepcopy(summary), copy.deepcopy(summary)
    del without[missing]
    empty[missing] = None
    first = build_report(write_run(without)).read_text()
    second = build_report(write_run(empty)).read_text()
    remove_hash = re.compile(r'<tr><th scope="row">summary.json.*')
    assert remove_hash.sub("", first) == remove_hash.sub("", second)


def test_an_almost_empty_summary_still_gives_a_page(write_run: Write) -> None:
    _, page = read(write_run({}))
    assert "no measurement" in page.text
    for part in ("policies", "paired differences", "learning curves", "a reward model", "samples"):
        assert part in page.text.split("Not measured in this run:")[1].split(".")[0]


def test_an_sft_run_says_what_was_not_measured(write_run: Write, summary: dict[str, Any]) -> None:
    alone = {k: summary[k] for k in ("name", "question", "seed", "stages")}
    _, page = read(write_run(alone, {"sft": SFT_ROWS}))
    assert "sft ended with loss 1.31" in page.text
    assert "Not measured in this run: policies, paired differences, a reward model, samples." in page.text
    assert "held-out loss" in page.text
    assert "No metrics were written by: grpo" in page.text


def test_without_gold_the_page_warns(write_run: Write, summary: dict[str, Any]) -> None:
    for values in summary["policies"].values():
        values.pop("gold")
    summary["judge"] = "proxy"
    rows = [{"step": s, "reward": 0.1 * s} for s in range(3)]
    _, page = read(write_run(summary, {"grpo": rows}))
    assert "Gold was not measured" in page.text
    assert "Wins are judged by the proxy" in page.text


def test_a_torn_last_line_is_left_out_and_said_so(write_run: Write, summary: dict[str, Any]) -> None:
    whole = "".join(json.dumps(row) + "\n" for row in RL_ROWS)
    _, page = read(write_run(summary, {"grpo": whole + '{"step": 4, "rew'}))
    assert "stages/grpo/metrics.jsonl:5: its last line is torn" in page.text
    assert "0.3 at step 3" in page.text


def test_a_broken_line_is_named_and_a_repeated_step_counts_once(
    write_run: Write, summary: dict[str, Any]
) -> None:
    again = '{"step": 3, "reward": 0.75, "gold": NaN}\n'
    text = "".join(json.dumps(row) + "\n" for row in RL_ROWS) + "oops\n" + again
    _, page = read(write_run(summary, {"grpo": text}))
    assert "stages/grpo/metrics.jsonl:5: not a row with a step" in page.text
    assert "1 repeated steps" in page.text
    assert "0.75 at step 3" in page.text


def test_an_abstention_is_not_shown_as_a_number(write_run: Write, summary: dict[str, Any]) -> None:
    _, page = read(full(write_run, summary))
    assert "abstained: no verdict" in page.text
    assert "cut at the token limit" in page.text
    assert "clarity 0.125" in page.text


def test_samples_are_bounded_and_the_rest_is_counted(write_run: Write, summary: dict[str, Any]) -> None:
    summary["samples"] = [
        {"prompt": f"p{i}", "answers": [{"policy": "sft", "text": "word " * 4000, "stop": "stop"}]}
        for i in range(60)
    ]
    html, page = read(write_run(summary))
    assert len(html) < 1_000_000
    shown = sum(a.get("class") == "sample" for _, a in page.tags)
    assert 0 < shown < 60
    assert f"The first {shown} of 60 samples" in page.text


def test_a_long_run_stays_small_and_keeps_its_extremes(write_run: Write, summary: dict[str, Any]) -> None:
    rows = [{"step": s, "reward": (s * 7919 % 101) / 100, "gold": 0.1, "kl": s % 13} for s in range(20_000)]
    rows[12_345]["reward"] = 55.0
    html, _ = read(write_run(summary, {"grpo": rows}))
    assert len(html) < 300_000
    figure = html[html.index('aria-labelledby="reward-2f-grpo') :]
    assert ">40<" in figure[: figure.index("</svg>")]  # the scale reaches the single spike


def test_no_summary_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no summary\.json"):
        build_report(tmp_path)
    (tmp_path / "summary.json").write_text('{"a": 1,\n oops}')
    with pytest.raises(UserError, match=r"summary\.json:2"):
        build_report(tmp_path)
