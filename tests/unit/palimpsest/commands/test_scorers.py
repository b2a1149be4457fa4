"""`palimpsest scorer` against a service made up for the test: what is sent, and how errors are told."""

import json
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import httpx
import pytest
from click.testing import Result

from tests.support.scorer_service import ACTIVATION, VERSION, Palimpsest, Service


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
