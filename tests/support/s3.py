"""An S3 server in this process, for tests of what is behind `s3://` URLs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import httpx
import s3fs
from moto.server import ThreadedMotoServer

KEY, SECRET = "AKIAPALIMPSEST", "not-for-anybody-else-either"


@dataclass(frozen=True)
class S3:
    """`client` looks at the server past the code under test."""

    url: str
    client: Any

    @property
    def options(self) -> dict[str, Any]:
        """As the sources file has them."""
        return {"key": KEY, "secret": SECRET, "client_kwargs": {"endpoint_url": self.url}}

    def put(self, bucket: str, **bodies: str) -> None:
        """Objects of a bucket by their keys; use `**{"a/b.txt": …}`."""
        for key, body in bodies.items():
            self.client.put_object(Bucket=bucket, Key=key, Body=body.encode())

    def text(self, bucket: str, key: str) -> str:
        found: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return found.decode()

    def buckets(self) -> list[str]:
        return [one["Name"] for one in self.client.list_buckets()["Buckets"]]

    def forget(self) -> None:
        """Removes every bucket, and what drivers in this process remember."""
        httpx.post(f"{self.url}/moto-api/reset").raise_for_status()
        s3fs.S3FileSystem.clear_instance_cache()

    @contextmanager
    def no_key_known(self) -> Iterator[None]:
        """Requests are refused for their credentials, as long as the block lasts."""
        address = f"{self.url}/moto-api/reset-auth"
        httpx.post(address, content=b"0").raise_for_status()
        try:
            yield
        finally:
            httpx.post(address, content=b"inf").raise_for_status()


@contextmanager
def s3_server() -> Iterator[S3]:
    """Without any bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    try:
        yield S3(url, client)
    finally:
        server.stop()
