"""`palimpsest up` serves the best fetched model, and says what the bundled one is where none is fetched."""

import json
from pathlib import Path

import pytest

from namm_runtime.model.catalogue import KNOWN, MANIFEST
from palimpsest.machine import default_model
from palimpsest.machine.default_model import BEST_FIRST, ModelChoice, slots_for
from store.settings import Settings


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PALIMPSEST_MODEL", "NAMM_MODELS", "PALIMPSEST_DEFAULT_CACHE_BUDGET"):
        monkeypatch.delenv(name, raising=False)


def fetch(data: Path, *names: str) -> None:
    """Leaves in the data directory what `palimpsest model add` would, as far as `up` looks at it."""
    for name in names:
        folder = data / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"max_position_embeddings": KNOWN[name].window}))
        (folder / MANIFEST).write_text("{}")


def choose(data: Path, **environment: str) -> ModelChoice:
    model = environment.get("PALIMPSEST_MODEL") or "bundled"
    return default_model.choose(Settings(data_dir=data, model=model), environment)


def test_every_known_model_that_can_be_fetched_has_a_rank() -> None:
    assert sorted(BEST_FIRST) == sorted(name for name, model in KNOWN.items() if not model.is_bundled)
    assert default_model.RECOMMENDED in BEST_FIRST


def test_nothing_fetched(tmp_path: Path) -> None:
    choice = choose(tmp_path)
    assert choice.environment == {}
    about, how = choice.sentences
    assert "test fixture" in about
    assert "cannot follow instructions" in about
    assert how.endswith(f"palimpsest model add smollm2-135m --data {tmp_path}")


def test_the_default_data_directory_need_not_be_named() -> None:
    default = Settings.model_fields["data_dir"].default
    assert default_model.fetch_command("x", Settings(data_dir=default)) == "palimpsest model add x"
    elsewhere = Settings(data_dir=Path("/srv/p"), NAMM_MODELS="/srv/m")
    assert default_model.fetch_command("x", elsewhere) == "palimpsest model add x"


@pytest.mark.parametrize(
    ("fetched", "served", "slots"),
    [
        (["smollm2-135m"], "smollm2-135m", "2048"),
        (["smollm2-135m", "qwen2.5-coder-1.5b"], "qwen2.5-coder-1.5b", "8192"),
    ],
)
def test_the_best_fetched_model_is_served(
    fetched: list[str], served: str, slots: str, tmp_path: Path
) -> None:
    fetch(tmp_path, *fetched)
    choice = choose(tmp_path)
    expected = {"PALIMPSEST_MODEL": served, "PALIMPSEST_DEFAULT_CACHE_BUDGET": slots}
    assert choice.environment == expected
    (about,) = choice.sentences
    assert served in about
    assert ("the best of" in about) is (len(fetched) > 1)


def test_an_unfinished_download_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "models" / "smollm2-135m").mkdir(parents=True)
    assert choose(tmp_path).environment == {}


def test_a_setting_goes_before_what_is_fetched(tmp_path: Path) -> None:
    fetch(tmp_path, *BEST_FIRST)
    assert choose(tmp_path, PALIMPSEST_MODEL="bundled") == ModelChoice()
    chosen = choose(tmp_path, PALIMPSEST_MODEL="smollm2-135m")
    assert chosen.environment == {"PALIMPSEST_DEFAULT_CACHE_BUDGET": "2048"}
    given = Settings(data_dir=tmp_path, model="bundled", PALIMPSEST_DEFAULT_CACHE_BUDGET=700)
    kept = default_model.choose(given, {})
    assert kept.environment == {"PALIMPSEST_MODEL": "qwen2.5-coder-1.5b"}


@pytest.mark.parametrize(("window", "slots"), [(4096, 1024), (131_072, 8192), (None, None)])
def test_slots_suit_the_window_of_any_directory(
    window: int | None, slots: int | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": window} if window else {}))
    assert slots_for(Settings(model=str(tmp_path))) == slots


def test_unreadable_files_are_left_to_the_worker_to_report(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert slots_for(Settings(model=str(tmp_path))) is None
    assert slots_for(Settings(model="some/hub-id")) is None
