"""The guard between webhooks and the network, and what a sender makes of a receiver's behaviour."""

import json
import shutil
import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from store.settings import Settings
from store.webhooks import secret
from store.webhooks.deliveries import AttemptResult, Due
from tests.support.receiver import Receiver, receiver
from worker.webhooks import sender
from worker.webhooks.sender import Sender
from worker.webhooks.ssrf_guard import AddressRefused, Deadline, Guard

PEPPER = "p" * 32
PAYLOAD = {"type": "job.succeeded", "timestamp": "2027-01-01T00:00:00+00:00", "data": {"job": "job_ü"}}


def settings(**changes: Any) -> Settings:
    return Settings.model_validate({"api_key_pepper": PEPPER, "webhook_allow_loopback": True, **changes})


def due(url: str, generations: tuple[int, ...] = (1,)) -> Due:
    return Due("dlv_1", "whk_1", "msg_1", url, PAYLOAD, generations, datetime.now(UTC))


def send(url: str, *, allow_loopback: bool = True, **options: Any) -> AttemptResult:
    return Sender(settings(webhook_allow_loopback=allow_loopback), **options).send(due(url))


def verify(found: Receiver, generation: int) -> Any:
    [came] = found.came
    return Webhook(secret(PEPPER.encode(), "whk_1", generation)).verify(came.body, came.headers)


def test_a_message_is_signed_as_the_library_of_the_standard_verifies() -> None:
    with receiver() as found:
        outcome = send(found.url)
    assert (outcome.status, outcome.error, outcome.retry_after) == (200, None, None)
    assert verify(found, 1) == PAYLOAD
    assert found.came[0].headers["content-type"] == "application/json"
    with pytest.raises(WebhookVerificationError):
        verify(found, 2)
    found.came[0].body += " "
    with pytest.raises(WebhookVerificationError):
        verify(found, 1)


def test_after_a_rotation_both_secrets_verify() -> None:
    with receiver() as found:
        Sender(settings()).send(due(found.url, (2, 1)))
    assert verify(found, 2) == verify(found, 1) == PAYLOAD
    assert len(found.came[0].headers["webhook-signature"].split(" ")) == 2


def test_a_redirect_is_a_failure_and_not_followed() -> None:
    with receiver() as target, receiver() as found:
        for found.status in (301, 302, 307, 308):
            found.headers = {"Location": target.url}
            outcome = send(found.url)
            assert outcome.status == found.status
            assert "redirects are not followed" in (outcome.error or "")
    assert target.came == []


def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as proxy, receiver() as found:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert send(found.url).error is None
    assert len(found.came) == 1
    assert proxy.came == []


def test_without_the_setting_loopback_is_not_reached() -> None:
    with receiver() as found:
        assert "https://" in (send(found.url, allow_loopback=False).error or "")
        outcome = send(
            f"https://hooks.example:{found.port}/", allow_loopback=False, resolve=lambda *_: ["127.0.0.1"]
        )
    assert outcome.status is None
    assert "not on the public internet" in (outcome.error or "")
    assert "127.0.0.1" not in (outcome.error or "")
    assert found.came == []


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    for addresses in (["1.1.1.1", "10.0.0.1"], ["::ffff:10.0.0.1"], ["64:ff9b::a00:1"], ["fe80::1%lo"]):
        guard = Guard(Deadline(5), resolve=lambda host, port, found=addresses: found)
        with pytest.raises(AddressRefused):
            guard.connect_tcp("hooks.example", 443)


def test_a_name_is_looked_up_once_and_the_vetted_address_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [["1.1.1.1"], ["127.0.0.1"]]  # as a name server that rebinds answers
    connected: list[str] = []

    def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    outcome = send("https://hooks.example/", allow_loopback=False, resolve=lambda *_: answers.pop(0))
    assert connected == ["1.1.1.1"]
    assert len(answers) == 1
    assert "failed" in (outcome.error or "")
    outcome = send("https://hooks.example/", allow_loopback=False, resolve=lambda *_: answers.pop(0))
    assert "not on the public internet" in (outcome.error or "")
    assert connected == ["1.1.1.1"]


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    with receiver() as found:
        outcome = send(f"http://localhost:{found.port}/", resolve=lambda *_: ["127.255.255.1", "127.0.0.1"])
    assert outcome.error is None


def test_a_name_that_is_not_found_or_never_looked_up() -> None:
    def missing(host: str, port: int) -> list[str]:
        raise socket.gaierror

    assert "cannot be found" in (send("https://hooks.example/", resolve=missing).error or "")
    assert "no address" in (send("https://hooks.example/", resolve=lambda *_: []).error or "")
    held = threading.Event()
    outcome = send("https://hooks.example/", resolve=lambda *_: [str(held.wait(60))], timeout=0.2)
    held.set()
    assert "within 0.2 s" in (outcome.error or "")


def test_a_receiver_that_is_silent_or_drips_is_given_up() -> None:
    with receiver() as found:
        found.hold.clear()
        assert "within 0.3 s" in (send(found.url, timeout=0.3).error or "")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        stop = threading.Event()

        def drip() -> None:
            connection, _ = listening.accept()
            with connection:
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        outcome = send(f"http://127.0.0.1:{listening.getsockname()[1]}/", timeout=1.0)
        stop.set()
        thread.join()
    assert "within 1 s" in (outcome.error or "")


def test_little_of_an_answer_is_read_and_less_is_kept() -> None:
    with receiver() as found:
        found.status, found.body = 500, b"\0\xff" + b"x" * 5_000_000
        outcome = send(found.url)
        assert outcome.status == 500
        assert outcome.error is not None
        assert "\0" not in outcome.error
        assert len(outcome.error) < 400
        found.status = 200
        assert send(found.url).error is None


def test_a_connection_that_is_cut_or_refused_is_a_failure() -> None:
    with receiver() as found:
        found.status = 0
        assert "failed" in (send(found.url).error or "")
    assert "failed" in (send(found.url).error or "")


def test_retry_after_is_read_in_both_forms() -> None:
    moment = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    with receiver() as found:
        found.status = 503
        for value, least, most in (("120", 120, 120), (moment, 3500, 3600), ("soon", None, None)):
            found.headers = {"Retry-After": value}
            asked = send(found.url).retry_after
            assert asked is None if least is None else least <= (asked or 0) <= (most or 0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_goes_by_the_name_and_not_by_the_vetted_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=right.example",
    ]
    make += ["-addext", "subjectAltName=DNS:right.example", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(sender, "_tls", lambda: trusting)
    with receiver(serving) as found:
        for host, error in (("right.example", None), ("wrong.example", "CERTIFICATE_VERIFY_FAILED")):
            outcome = send(f"https://{host}:{found.port}/", resolve=lambda *_: ["127.0.0.1"])
            assert (outcome.error is None) if error is None else (error in (outcome.error or ""))
    assert [one.headers["host"] for one in found.came] == [f"right.example:{found.port}"]
    assert json.loads(found.came[0].body) == PAYLOAD
