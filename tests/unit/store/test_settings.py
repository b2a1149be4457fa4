"""Settings: secrets, URLs, and what is missing."""

from pathlib import Path

import pytest

from store.errors import StoreError
from store.settings import SettingMissing, Settings


def test_settings_hide_secrets_and_name_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    with pytest.raises(SettingMissing, match="DATABASE_URL"):
        _ = Settings().database
    with pytest.raises(SettingMissing, match="REDIS_URL"):
        _ = Settings().broker
    monkeypatch.setenv("DATABASE_URL", "postgres://u:hunter2@host/db")
    monkeypatch.setenv("PALIMPSEST_API_KEY_PEPPER", "hunter2-pepper")
    config = Settings(data_dir=tmp_path)
    assert "hunter2" not in repr(config)
    assert config.database == "postgresql+psycopg://u:hunter2@host/db"
    assert config.pepper == b"hunter2-pepper"


@pytest.mark.parametrize(
    ("given_url", "broker", "client"),
    [
        ("unix:///a/r.sock", "redis+socket:///a/r.sock", "unix:///a/r.sock"),
        ("unix:///a/r.sock?db=2", "redis+socket:///a/r.sock?virtual_host=2", "unix:///a/r.sock?db=2"),
        ("redis+socket:///a/r.sock", "redis+socket:///a/r.sock", "unix:///a/r.sock"),
        ("redis://h:6379/1", "redis://h:6379/1", "redis://h:6379/1"),
    ],
)
def test_redis_url_in_both_spellings(given_url: str, broker: str, client: str) -> None:
    config = Settings(redis_url=given_url)
    assert (config.broker, config.redis) == (broker, client)


def test_pepper_is_made_once_and_private(tmp_path: Path) -> None:
    first = Settings(data_dir=tmp_path).pepper
    assert Settings(data_dir=tmp_path).pepper == first
    assert (tmp_path / "api_key_pepper").stat().st_mode & 0o777 == 0o600
    (tmp_path / "api_key_pepper").write_text("")
    with pytest.raises(StoreError, match="holds no usable secret"):
        _ = Settings(data_dir=tmp_path).pepper
