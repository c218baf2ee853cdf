"""A reward behind a real server on loopback, in the three forms, with its limits and its client."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvicorn

from rewardlab.core.errors import UserError
from rewardlab.core.types import Rollout, Score
from rewardlab.rewards.remote import RemoteReward, RemoteSettings
from rewardlab.rewards.texts import to_rollouts
from rewardlab.serving.app import make_app
from rewardlab.serving.serve import find_reward, serve
from rewardlab.serving.settings import ServerSettings


class Words:
    name = "words"

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        time.sleep(0.02)
        return [self._one(r) for r in rollouts]

    def _one(self, rollout: Rollout) -> Score:
        if rollout.text == "broken":
            return Score.error("no luck")
        if rollout.text == "silent":
            return Score.abstain("no opinion")
        count = float(len(rollout.text.split()))
        return Score(count, parts={"words": count, "answer": float(rollout.prompt.meta.get("answer") or 0)})


def started(settings: ServerSettings, token: str | None = None) -> Iterator[str]:
    config = uvicorn.Config(make_app(Words(), settings, token), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(5)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    yield from started(ServerSettings(items_per_request=100, request_mib=0.01, batch_wait_seconds=0.05))


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    yield from started(ServerSettings(missing=-9.0), token="open sesame")


def post(url: str, body: Any, token: str | None = None) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_plain_form_says_what_became_of_each_answer(url: str) -> None:
    body = {"prompts": ["p"] * 3, "completions": ["a b", "broken", "silent"], "meta": [{"answer": 4}, {}, {}]}
    status, said = post(f"{url}/score", body)
    assert status == 200
    assert [s["status"] for s in said["scores"]] == ["ok", "error", "abstain"]
    assert said["scores"][0]["parts"] == {"words": 2.0, "answer": 4.0}
    assert said["scores"][1] == {
        **{"value": None, "status": "error", "reason": "no luck"},
        **{"uncertainty": None, "parts": {}},
    }
    messages = {"messages": [[{"role": "user", "content": "p"}]], "completions": ["a b c"]}
    assert post(f"{url}/score", messages)[1]["scores"][0]["value"] == 3.0


def test_openrlhf_and_scoring_forms(url: str, guarded: str) -> None:
    body = {"query": ["Q: one two", "Q: three"], "prompts": ["Q:", "Q:"], "labels": ["1", "2"]}
    assert post(f"{url}/get_reward", body)[1]["rewards"] == [2.0, 1.0]
    said = post(f"{url}/v1/score", {"text_1": "Q", "text_2": ["a", "a b"]})[1]
    assert [d["score"] for d in said["data"]] == [1.0, 2.0]
    status, said = post(f"{url}/get_reward", {"query": ["broken"]})
    assert (status, "no luck" in said["error"]) == (502, True)
    assert post(f"{guarded}/get_reward", {"query": ["broken"]}, "open sesame")[1]["rewards"] == [-9.0]


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/score", b"{not json", 400, "not JSON"),
        ("/score", {"completions": ["a"]}, 422, "prompts"),
        ("/score", {"prompts": ["p", "q"], "completions": ["a"]}, 422, "2 prompts for 1"),
        ("/score", {"prompts": ["p"], "completions": ["a"], "temperature": 1}, 422, "temperature"),
        ("/score", {"messages": [[{"role": "user"}]], "completions": ["a"]}, 422, "content"),
        ("/score", {"prompts": ["p"], "completions": ["a" * 20_000]}, 413, "larger than"),
        ("/score", {"prompts": ["p"] * 101, "completions": ["a"] * 101}, 413, "more than 100"),
        ("/v1/score", {"text_1": ["p", "q"], "text_2": "a"}, 422, "text_1"),
        ("/get_reward", {"query": []}, 422, "query"),
    ],
)
def test_bad_requests_get_a_clear_answer(url: str, path: str, body: Any, status: int, reason: str) -> None:
    code, said = post(f"{url}{path}", body)
    assert code == status
    assert reason in said["error"]


def test_a_token_is_needed_where_one_is_set(guarded: str) -> None:
    body = {"prompts": ["p"], "completions": ["a"]}
    assert post(f"{guarded}/score", body)[0] == 401
    assert post(f"{guarded}/score", body, "wrong")[0] == 401
    assert post(f"{guarded}/score", body, "open sesame")[0] == 200
    with urllib.request.urlopen(f"{guarded}/health", timeout=5) as answer:
        assert json.load(answer)["status"] == "ok"


def test_beyond_this_machine_only_with_a_token() -> None:
    with pytest.raises(UserError, match="no token"):
        serve(Words(), ServerSettings(host="0.0.0.0"), None)


def test_concurrent_requests_are_scored_together(url: str) -> None:
    def batches() -> int:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return int(json.load(answer)["batches"])

    before = batches()
    with ThreadPoolExecutor(12) as threads:
        bodies = [{"prompts": ["p"], "completions": ["a " * i]} for i in range(1, 13)]
        said = list(threads.map(lambda b: post(f"{url}/score", b)[1], bodies))
    assert [s["scores"][0]["value"] for s in said] == [float(i) for i in range(1, 13)]
    assert batches() - before < 12


def test_the_client_gives_what_the_reward_gives(guarded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = to_rollouts(["p"] * 4, ["a b", "broken", "silent", "c"], [{"answer": 1}, {}, {}, {}])
    client = RemoteReward("far", RemoteSettings(url=guarded, answers_per_request=3))
    assert {s.status for s in client.score(rows)} == {"error"}
    assert "401" in client.score(rows)[0].reason
    monkeypatch.setenv("REWARDLAB_TOKEN", "open sesame")
    assert client.score(rows) == Words().score(rows)


def test_a_server_that_is_not_there_is_an_error_after_all_tries() -> None:
    client = RemoteReward("far", RemoteSettings(url="http://127.0.0.1:9", retries=2, wait_seconds=0.05))
    start = time.monotonic()
    (score,) = client.score(to_rollouts(["p"], ["a"]))
    assert score.status == "error"
    assert time.monotonic() - start >= 0.15


def test_a_reward_is_found_by_name_or_in_a_file(tmp_path: Any) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("rewards:\n  mix: {kind: sum, weights: {length: 2}}\n")
    rows = to_rollouts(["p"], ["a b"])
    assert find_reward("length").score(rows)[0].value == 2.0
    assert find_reward(f"{file}").score(rows)[0].value == 4.0
    with pytest.raises(UserError, match="does not say which"):
        find_reward(f"{file}:other")
