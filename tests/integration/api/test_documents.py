"""Uploads over real HTTP: streamed, capped, looked at, and never left behind when refused."""

import errno
import hashlib
import http.client
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import store.atomic_files
from api.http import uploads
from tests.conftest import Api, problem

GIGABYTE = 1024**3


@pytest.fixture
def client(api: Api) -> Iterator[httpx.Client]:
    with api.client() as client:
        yield client


@pytest.fixture
def refused(refusing_api: Api) -> Iterator[httpx.Client]:
    """For requests that must leave no file and no row."""
    with refusing_api.client() as client:
        yield client
        assert refusing_api.stored_files() == []


def test_a_raw_upload_is_stored_with_its_hash(api: Api, client: httpx.Client) -> None:
    content = "Grüße, 世界 🌍\n".encode() * 4000
    response = client.post(
        "/v1/documents",
        params={"name": "a/b\\notes.md"},
        content=content,
        headers={"content-type": "text/markdown"},
    )
    assert response.status_code == 201, response.text
    document = response.json()
    assert document["bytes"] == len(content)
    assert document["sha256"] == hashlib.sha256(content).hexdigest()
    assert document["media_type"] == "text/markdown"
    assert document["name"] == "notes.md"
    assert client.get(f"/v1/documents/{document['id']}").json() == document
    [blob] = api.stored_files()
    assert blob.read_bytes() == content


@pytest.mark.parametrize("size", [1, 70_000, 256 * 1024])
def test_a_form_is_stored_like_a_raw_body(api: Api, client: httpx.Client, size: int) -> None:
    content = b"x" * size
    response = client.post(
        "/v1/documents",
        files={"file": ("report.txt", content, "text/plain")},
        data={"comment": "not the file"},
    )
    assert response.status_code == 201, response.text
    assert response.json()["name"] == "report.txt"
    assert response.json()["sha256"] == hashlib.sha256(content).hexdigest()
    [blob] = api.stored_files()
    assert blob.read_bytes() == content


def test_a_document_may_be_as_large_as_the_limit_and_no_larger(api: Api, client: httpx.Client) -> None:
    limit = api.settings.max_upload_bytes
    assert client.post("/v1/documents", content=b"x" * limit).status_code == 201
    body = problem(
        client.post("/v1/documents", content=b"x" * (limit + 1)), 413, "document_too_large", "file"
    )
    assert body["max_bytes"] == limit


def test_three_gigabytes_are_refused_while_they_stream(refusing_api: Api, refused: httpx.Client) -> None:
    sent = 0

    def three_gigabytes() -> Iterator[bytes]:
        nonlocal sent
        while sent < 3 * GIGABYTE:
            sent += 65536
            yield b"x" * 65536

    response = refused.post("/v1/documents", content=three_gigabytes())
    problem(response, 413, "document_too_large", "file")
    # What the kernel's socket buffers hold was sent for nothing; the rest never left.
    assert sent < 64 * 1024 * 1024


def test_three_gigabytes_are_refused_by_their_content_length(refusing_api: Api) -> None:
    connection = http.client.HTTPConnection(refusing_api.url.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/v1/documents")
    connection.putheader("Authorization", f"Bearer {refusing_api.key}")
    connection.putheader("Content-Type", "text/plain")
    connection.putheader("Content-Length", str(3 * GIGABYTE))
    connection.endheaders()  # and not one byte of the body
    response = connection.getresponse()
    assert response.status == 413
    assert b'"document_too_large"' in response.read()
    connection.close()


BINARY: list[tuple[bytes, str]] = [
    (b"%PDF-1.7\n\x00\x01", "a PDF"),
    (b"PK\x03\x04\x14\x00\x00", "a ZIP or Office file"),
    ("Text in UTF-16".encode("utf-16"), "UTF-16 text"),
    (bytes(range(256)), "NUL"),
    (b"plain, then \xff\xfe\xfa", "not UTF-8"),
    ("Käse".encode("latin-1"), "not UTF-8"),
    ("half a character: €".encode()[:-1], "middle of a UTF-8 character"),
    (b"x" * 100_000 + b"\0", "byte 100,000 is NUL"),
]


@pytest.mark.parametrize(("content", "why"), BINARY, ids=range(len(BINARY)))
def test_what_is_not_text_is_refused(refused: httpx.Client, content: bytes, why: str) -> None:
    assert (
        why
        in problem(refused.post("/v1/documents", content=content), 422, "document_not_text", "file")["detail"]
    )
    form = refused.post("/v1/documents", files={"file": ("a.txt", content, "text/plain")})
    assert why in problem(form, 422, "document_not_text", "file")["detail"]


@pytest.mark.parametrize("content", [b"", b" \n\t\r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n"])
def test_an_empty_document_is_refused(refused: httpx.Client, content: bytes) -> None:
    problem(refused.post("/v1/documents", content=content), 422, "document_empty", "file")
    form = refused.post("/v1/documents", files={"file": ("a.txt", content, "text/plain")})
    problem(form, 422, "document_empty", "file")


@pytest.mark.parametrize(
    ("content_type", "content", "status", "code"),
    [
        ("multipart/form-data", b"x", 400, "malformed_multipart"),
        ("multipart/form-data; boundary=b", b"x", 400, "malformed_multipart"),
        ("multipart/form-data; boundary=b", b"", 400, "malformed_multipart"),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\nContent-Disposition: form-data",
            400,
            "malformed_multipart",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\ncut short',
            400,
            "malformed_multipart",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\nx\r\n--b--\r\n',
            422,
            "file_missing",
        ),
        (
            "multipart/form-data; boundary=b",
            2 * b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx\r\n' + b"--b--\r\n",
            422,
            "too_many_files",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\n'
            + b"x" * 100_000
            + b"\r\n--b--\r\n",
            413,
            "form_too_large",
        ),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\nX-Long: " + b"x" * 9000 + b"\r\n\r\nx\r\n--b--\r\n",
            400,
            "malformed_multipart",
        ),
    ],
)
def test_a_broken_form_is_refused(
    refused: httpx.Client, content_type: str, content: bytes, status: int, code: str
) -> None:
    response = refused.post("/v1/documents", content=content, headers={"content-type": content_type})
    problem(response, status, code)


@pytest.mark.parametrize(
    ("name", "code"),
    [("scan.pdf", "unsupported_document"), ("x" * 256, "invalid_request"), ("a.EXE", "unsupported_document")],
)
def test_a_name_that_is_not_read_is_refused(refused: httpx.Client, name: str, code: str) -> None:
    problem(refused.post("/v1/documents", params={"name": name}, content=b"text"), 422, code, "name")


def test_a_full_disk_is_told_and_nothing_is_left(
    refusing_api: Api, refused: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.atomic_files, "_sync", full)
    problem(refused.post("/v1/documents", content=b"text"), 507, "storage_full")
    job: dict[str, Any] = {"text": "text", "questions": ["Q"]}
    problem(refused.post("/v1/jobs", json=job), 507, "storage_full")


def test_an_upload_that_stalls_or_breaks_off_is_given_up(
    refusing_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "STALL_SECONDS", 0.2)
    host, port = refusing_api.url.removeprefix("http://").split(":")
    head = f"POST /v1/documents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {refusing_api.key}\r\n"
    head += "Content-Type: text/plain\r\nContent-Length: 100\r\n\r\nthe first few bytes"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        answer = connection.recv(65536)
        while b"upload_stalled" not in answer:
            piece = connection.recv(65536)
            assert piece, answer
            answer += piece
    assert answer.startswith(b"HTTP/1.1 408 ")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
    with refusing_api.client() as client:
        assert client.get("/healthz").status_code == 200
    assert refusing_api.stored_files() == []


def test_text_may_break_anywhere_between_chunks(
    api: Api, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "BATCH", 1)
    content = "aß€🌍".encode()

    def bytewise() -> Iterator[bytes]:
        for byte in content:
            yield bytes([byte])

    response = client.post("/v1/documents", content=bytewise())
    assert response.status_code == 201, response.text
    assert response.json()["sha256"] == hashlib.sha256(content).hexdigest()
