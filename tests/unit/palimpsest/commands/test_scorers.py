"""`palimpsest scorer` against a service that is made up: what is sent, what is shown, how errors are told."""

import json
from collections.abc import Callable
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from palimpsest.cli import app
from palimpsest.commands import common, scorers
from palimpsest_client import Client

Answer = dict[str, Any]
ENVIRONMENT = {"PALIMPSEST_URL": "http://service", "PALIMPSEST_API_KEY": "pal_x", "COLUMNS": "200"}
ACTIVATION = {"scorer": "namm@3", "scope": "global", "alias": "canary", "percent": 10, "shadow_percent": 20}
VERSION = {
    "name": "namm",
    "version": "3",
    "state": "active",
    "kind": "safetensors",
    "sha256": "ab" * 32,
    "manifest": {"regime": {"mode": "budget", "budget": 128, "watch_last": None}, "serving": {"budget": 512}},
    "evaluation": {
        "rows": [
            {"scorer": None, "policy": "full", "budget": None, "score": 0.5, "of_full": None},
            {"scorer": "namm@3", "policy": "mine", "budget": "25%", "score": 0.48, "of_full": 0.96},
        ]
    },
    "activations": [{**ACTIVATION, "bounds": {"max_failure_rate": 0.05, "min_agreement": None}}],
    "created_by": "key_1",
    "created_at": "2026-03-01T10:00:00Z",
}
RATE = {"value": 0.25, "low": 0.1, "high": 0.5}
OUTCOME = {
    "scorer": "namm@3",
    "version": "3",
    "state": "active",
    "jobs": {"succeeded": 6, "failed": 2, "cancelled": 1, "expired": 1},
    "failure_rate": RATE,
    "kept": 0.125,
    "device_seconds": "1234.5",
    "score_share": 0.03,
    "scorer_quality": 0.97,
    "money": [
        {"currency": "EUR", "cost": None, "saving_allocated": None, "saving_realised": None},
        {"currency": "USD", "cost": "2.5", "saving_allocated": "1.75", "saving_realised": "-0.5"},
    ],
    "shadow": {
        "runs": 40,
        "failed": 1,
        "not_made": 7,
        "answers": 120,
        "agreed": 90,
        "agreement": {**RATE, "value": 0.75},
    },
    "evaluation": None,
}
IDLE = {"scorer": "namm@1", "version": "1", "state": "retired", "jobs": {}, "money": [], "shadow": {}}


class Service:
    """Answers by method and path; keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | int | list[Answer]] = {}
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.asked.append(request)
        answer = self.answers.get(f"{request.method} {request.url.raw_path.decode().partition('?')[0]}")
        if isinstance(answer, list):  # one after the other, the last for ever
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if answer is None:
            body = {"code": "not_found", "detail": "There is no scorer namm@9 in the registry."}
            return httpx.Response(404, json=body)
        if isinstance(answer, int):
            return httpx.Response(answer)
        return httpx.Response(answer.get("status", 200), json=answer)

    @property
    def sent(self) -> Answer:
        found: Answer = json.loads(self.asked[-1].content)
        return found


Palimpsest = Callable[..., Result]


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service()
    transport = httpx.MockTransport(made)
    monkeypatch.setattr(common, "Client", lambda url, key: Client(url, key, transport))
    monkeypatch.setattr(scorers, "POLL_SECONDS", 0)
    return made


@pytest.fixture
def palimpsest(tmp_path: Path) -> Palimpsest:
    def run(*arguments: str) -> Result:
        environment = ENVIRONMENT | {"PALIMPSEST_DATA_DIR": str(tmp_path / "data")}
        return CliRunner().invoke(app, ["scorer", *arguments], env=environment)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scorer.safetensors").write_bytes(b"\x00weights")
    (tmp_path / "mine" / "manifest.json").write_text('{"name": "namm", "version": "3"}')
    return tmp_path / "mine"


def form(request: httpx.Request) -> dict[str, tuple[str | None, bytes]]:
    """Part → file name and content."""
    head = b"content-type: " + request.headers["content-type"].encode() + b"\r\n\r\n"
    parts = message_from_bytes(head + request.content).get_payload()
    assert isinstance(parts, list)
    found = {}
    for part in parts:
        assert isinstance(part, Message)
        name = part.get_param("name", header="content-disposition")
        found[str(name)] = (part.get_filename(), bytes(part.get_payload(decode=True)))  # type: ignore[arg-type]
    return found


def failed(ended: Result, *words: str) -> None:
    """A command ended with exit code 1 and one sentence that has these words."""
    assert ended.exit_code == 1, ended.output
    assert isinstance(ended.exception, SystemExit)
    assert len(ended.output.strip().splitlines()) == 1, ended.output
    for word in words:
        assert word in ended.output


def line(ended: Result, start: str) -> str:
    assert ended.exit_code == 0, ended.output
    [found] = [one for one in ended.output.splitlines() if one.startswith(start)]
    return found


def test_a_folder_is_pushed_as_its_two_files(service: Service, palimpsest: Palimpsest, folder: Path) -> None:
    service.answers["POST /v1/scorers/namm/versions"] = {"version": "3", "state": "uploaded"}
    ended = palimpsest("push", str(folder))
    assert (ended.exit_code, ended.output) == (0, "namm@3 uploaded\n")
    assert form(service.asked[-1]) == {
        "scorer": ("scorer.safetensors", b"\x00weights"),
        "manifest": ("manifest.json", b'{"name": "namm", "version": "3"}'),
    }
    assert service.asked[-1].headers["authorization"] == "Bearer pal_x"


def test_a_checkpoint_is_pushed_under_the_name_that_is_given(
    service: Service, palimpsest: Palimpsest, tmp_path: Path
) -> None:
    file = tmp_path / "iter_10.pt"
    file.write_bytes(b"PK")
    service.answers["POST /v1/scorers/ref/versions"] = {}
    ended = palimpsest("push", str(file), "--name", "ref", "--version", "7")
    assert (ended.exit_code, ended.output) == (0, "ref@7 uploaded\n"), "an answer may lack everything"
    assert form(service.asked[-1]) == {"version": (None, b"7"), "checkpoint": ("iter_10.pt", b"PK")}


def test_waiting_ends_with_the_verdict(service: Service, palimpsest: Palimpsest, folder: Path) -> None:
    uploaded = {"version": "3", "state": "uploaded"}
    service.answers["POST /v1/scorers/namm/versions"] = uploaded
    service.answers["GET /v1/scorers/namm/versions/3"] = [uploaded, uploaded, {"state": "verified"}]
    ended = palimpsest("push", str(folder), "--wait")
    assert ended.exit_code == 0
    assert ended.output.strip().endswith("namm@3 verified")
    assert len(service.asked) == 4
    rejected = {"state": "rejected", "reason": "scorer_not_finite: it holds a NaN"}
    service.answers["GET /v1/scorers/namm/versions/3"] = [uploaded, rejected]
    ended = palimpsest("push", str(folder), "--wait")
    assert ended.exit_code == 1
    assert "namm@3 was rejected: scorer_not_finite: it holds a NaN" in ended.output
    ended = palimpsest("push", str(folder), "--wait", "--json")
    assert ended.exit_code == 1
    assert json.loads(ended.stdout) == rejected


def test_what_cannot_be_pushed_is_told_and_nothing_is_sent(
    service: Service, palimpsest: Palimpsest, folder: Path, tmp_path: Path
) -> None:
    manifest, checkpoint = folder / "manifest.json", tmp_path / "a.pt"
    checkpoint.write_bytes(b"PK")
    failed(palimpsest("push", str(tmp_path / "none")), "There is no file or folder")
    failed(palimpsest("push", str(folder / "scorer.safetensors")), "neither a folder")
    failed(palimpsest("push", str(checkpoint), "--name", "ref"), "--name and --version")
    failed(palimpsest("push", str(folder), "--name", "other"), "names the scorer 'namm'")
    manifest.write_text("{")
    failed(palimpsest("push", str(folder)), "manifest.json is not valid JSON")
    manifest.write_text("[]")
    failed(palimpsest("push", str(folder)), "does not contain a JSON object")
    manifest.write_text('{"name": "namm"}')
    failed(palimpsest("push", str(folder)), "no name or no version")
    manifest.unlink()
    failed(palimpsest("push", str(folder)), "it has no manifest.json")
    assert service.asked == []


def test_versions_are_listed_and_shown(service: Service, palimpsest: Palimpsest) -> None:
    brief = {"version": "3", "state": "active", "sha256": "ab" * 32, "created_at": "2026-03-01T10:00:00Z"}
    service.answers["GET /v1/scorers"] = {"data": [{"name": "namm", "data": [brief, {"version": "[b]1"}]}]}
    ended = palimpsest("list")
    assert line(ended, "namm@3").split() == ["namm@3", "active", "abababababab", "2026-03-01", "10:00:00"]
    assert "namm@[b]1" in ended.output, "nothing is taken for markup"
    service.answers["GET /v1/scorers"] = {"data": []}
    assert "empty" in palimpsest("list").output
    service.answers["GET /v1/scorers/namm/versions/3"] = VERSION
    ended = palimpsest("show", "namm@3")
    assert "global, canary, 10 %, shadow 20 %, guardrails max_failure_rate 0.05" in line(ended, "serves  ")
    assert "mode budget, budget 128" in line(ended, "evolved with")
    assert "48.0% score, 96.0% of the full cache, budget 25%" in line(ended, "evaluation")
    service.answers["GET /v1/scorers/namm/versions/3"] = {"state": "uploaded"}
    assert "uploaded" in line(palimpsest("show", "namm@3"), "state")


def test_a_list_is_followed_to_its_last_page(service: Service, palimpsest: Palimpsest) -> None:
    first = {"data": [{"name": "namm", "data": [{"version": "2"}]}], "has_more": True, "next_cursor": "c1"}
    last = {"data": [{"name": "namm", "data": [{"version": "1"}]}], "has_more": False, "next_cursor": None}
    service.answers["GET /v1/scorers"] = [first, last]
    ended = palimpsest("list")
    assert line(ended, "namm@2")
    assert line(ended, "namm@1")
    assert [dict(asked.url.params) for asked in service.asked] == [{}, {"cursor": "c1"}]
    service.answers["GET /v1/scorers"] = [first, last]
    whole = json.loads(palimpsest("list", "--json").output)
    assert whole == {**last, "data": first["data"] + last["data"]}  # type: ignore[operator]


def test_rows_of_another_file_are_not_the_versions(service: Service, palimpsest: Palimpsest) -> None:
    row = {"scorer": "namm@3", "score": 0.48, "of_full": 0.96, "budget": "25%"}
    answer = {**VERSION, "evaluation": {"rows": [{**row, "scorer_sha256": "cd" * 32}]}}
    service.answers["GET /v1/scorers/namm/versions/3"] = answer
    assert "belong to another file" in line(palimpsest("show", "namm@3"), "evaluation")
    answer["evaluation"] = {"rows": [{**row, "scorer_sha256": "ab" * 32}]}
    assert "48.0% score" in line(palimpsest("show", "namm@3"), "evaluation")
    outcome = {**OUTCOME, "sha256": "ab" * 32, "evaluation": {"rows": [{**row, "scorer_sha256": "cd" * 32}]}}
    service.answers["GET /v1/scorers/namm/outcomes"] = {"data": [outcome]}
    assert "belong to another file" in line(palimpsest("compare", "namm"), "evaluation")


def test_an_evaluation_is_attached(service: Service, palimpsest: Palimpsest, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text('{"rows": [1]}')
    service.answers["PUT /v1/scorers/namm/versions/3/evaluation"] = VERSION
    ended = palimpsest("evaluate", "namm@3", str(file))
    assert (ended.exit_code, ended.output) == (0, "report.json attached to namm@3\n")
    assert service.sent == {"rows": [1]}
    failed(palimpsest("evaluate", "namm@3", str(tmp_path / "none.json")), "none.json cannot be read")


def test_what_serves_is_changed(service: Service, palimpsest: Palimpsest) -> None:
    service.answers["POST /v1/scorers/namm/activations"] = ACTIVATION
    assert palimpsest("activate", "namm@3").output == "namm@3 serves global\n"
    assert service.sent == {"version": "3", "scope": "global", "alias": "stable"}
    bounds = ("--max-failure-rate", "0.05", "--min-jobs", "50")
    shares = ("--percent", "10", "--shadow", "20", "--scope", "model:small", "--reason", "try")
    ended = palimpsest("canary", "namm@3", *shares, *bounds)
    assert ended.output == "namm@3 serves 10 % of model:small and repeats 20 % of the others as shadow runs\n"
    assert service.sent == {
        "version": "3",
        "scope": "model:small",
        "alias": "canary",
        "percent": 10,
        "shadow_percent": 20,
        "bounds": {"max_failure_rate": 0.05, "min_jobs": 50},
        "reason": "try",
    }
    palimpsest("canary", "namm@3", "--percent", "5")
    assert "bounds" not in service.sent
    service.answers["DELETE /v1/scorers/namm/activations/model:small/canary"] = 204
    ended = palimpsest("end-canary", "namm", "--scope", "model:small", "--reason", "seen enough")
    assert ended.output == "The canary of namm in model:small has ended\n"
    assert dict(service.asked[-1].url.params) == {"reason": "seen enough"}
    service.answers["POST /v1/scorers/namm/rollback"] = {"scorer": "namm@2"}
    assert palimpsest("rollback", "namm", "--reason", "bad").output == "namm@2 serves global again\n"
    assert service.sent == {"scope": "global", "reason": "bad"}
    service.answers["POST /v1/scorers/namm/rollback"] = {}
    assert palimpsest("rollback", "namm", "--reason", "bad").output.endswith("serves global again\n")


def test_versions_stand_side_by_side(service: Service, palimpsest: Palimpsest) -> None:
    service.answers["GET /v1/scorers/namm/outcomes"] = {"data": [OUTCOME, IDLE]}
    ended = palimpsest("compare", "namm", "--last", "30d")
    assert "namm@1" not in ended.output, "nothing came of it"
    assert line(ended, "failure rate").split(maxsplit=2)[2] == "25.0% [10.0%, 50.0%]"
    assert line(ended, "agreement").endswith("75.0% [10.0%, 50.0%]")
    assert line(ended, "skipped shadow runs").endswith("7")
    assert line(ended, "kept").endswith("12.50%")
    assert line(ended, "cost per job, USD").endswith("0.250000")
    assert line(ended, "cost per job, EUR").strip() == "cost per job, EUR"
    assert line(ended, "realised saving, USD").endswith("-0.5")
    assert line(ended, "device seconds").endswith("1,234.5")
    ended = palimpsest("compare", "namm", "3", "namm@1")
    assert service.asked[-1].url.params.get_list("version") == ["3", "1"]
    assert service.asked[-1].url.params["start_time"]
    assert "namm@1" in ended.output
    service.answers["GET /v1/scorers/namm/outcomes"] = {"data": [IDLE]}
    assert "None of your jobs ran with namm" in palimpsest("compare", "namm").output


def test_rollout_and_audit_are_tables(service: Service, palimpsest: Palimpsest) -> None:
    worker = {"worker_id": "wrk_1", "host": "here", "scorer": "namm@2", "error": "it is not there"}
    wanted = {"desired": "namm@3", "activation": ACTIVATION}
    idle = {"scorer": "namm@4", "scope": "model:b", "alias": "stable"}
    service.answers["GET /v1/rollout"] = {"data": [{**wanted, "workers": [worker]}, idle]}
    ended = palimpsest("rollout")
    cells = line(ended, "namm@3").split()
    assert cells == ["namm@3", "global", "canary", "wrk_1", "here", "namm@2", "it", "is", "not", "there"]
    assert line(ended, "namm@4").split()[:3] == ["namm@4", "model:b", "stable"]
    assert "no live worker" in ended.output
    entry = {
        "at": "2026-03-01T10:00:00.5Z",
        "actor": "system",
        "action": "scorer.bound_crossed",
        "subject": "namm@3",
        "detail": {"reason": "3 of 12 jobs failed", "back_to": None},
    }
    service.answers["GET /v1/audit"] = {"data": [entry]}
    ended = palimpsest("audit", "--subject", "namm@3")
    assert "system  scorer.bound_crossed  namm@3   reason 3 of 12 jobs failed" in line(
        ended, "2026-03-01 10:00:00"
    )
    assert dict(service.asked[-1].url.params) == {"subject": "namm@3"}


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        (("list",), "GET /v1/scorers"),
        (("show", "namm@3"), "GET /v1/scorers/namm/versions/3"),
        (("activate", "namm@3"), "POST /v1/scorers/namm/activations"),
        (("canary", "namm@3", "--percent", "1"), "POST /v1/scorers/namm/activations"),
        (("end-canary", "namm"), "DELETE /v1/scorers/namm/activations/global/canary"),
        (("deactivate", "namm"), "DELETE /v1/scorers/namm/activations/global/stable"),
        (("rollback", "namm", "--reason", "bad"), "POST /v1/scorers/namm/rollback"),
        (("compare", "namm"), "GET /v1/scorers/namm/outcomes"),
        (("rollout",), "GET /v1/rollout"),
        (("audit",), "GET /v1/audit"),
    ],
)
def test_every_command_gives_json_and_tells_a_refusal(
    service: Service, palimpsest: Palimpsest, arguments: tuple[str, ...], address: str
) -> None:
    service.answers[address] = {"data": [], "more": "ä [b]"}
    ended = palimpsest(*arguments, "--json")
    assert json.loads(ended.output) == service.answers[address]
    service.answers[address] = {"status": 403, "code": "admin_required", "detail": "Only an admin's key may."}
    failed(palimpsest(*arguments), "admin_required: Only an admin's key may.")


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "namm"),
        ("activate", "@3"),
        ("canary", "namm@", "--percent", "1"),
        ("evaluate", "namm", "x.json"),
    ],
)
def test_a_label_without_a_version_is_told(
    service: Service, palimpsest: Palimpsest, arguments: tuple[str, ...]
) -> None:
    failed(palimpsest(*arguments), "Expected NAME@VERSION, for example namm@3; got")
    assert service.asked == []


def test_an_interval_that_is_none_is_told(service: Service, palimpsest: Palimpsest) -> None:
    failed(palimpsest("compare", "namm", "--last", "soon"), "--last takes a number")


def test_names_are_no_addresses(service: Service, palimpsest: Palimpsest) -> None:
    failed(palimpsest("show", "a/../b@1?x"), "not_found")
    assert service.asked[-1].url.raw_path == b"/v1/scorers/a%2F..%2Fb/versions/1%3Fx"
