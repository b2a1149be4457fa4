"""What `palimpsest scorer` shows of a service made up for the test."""

import json

from click.testing import Result

from tests.support.scorer_service import ACTIVATION, VERSION, Palimpsest, Service

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


def line(ended: Result, start: str) -> str:
    assert ended.exit_code == 0, ended.output
    [found] = [one for one in ended.output.splitlines() if one.startswith(start)]
    return found


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
