"""Which files a worker's model is made of, and when it takes them for replaced."""

from pathlib import Path

import pytest

from namm_runtime.errors import Refusal
from namm_runtime.model.catalogue import KNOWN, MANIFEST, KnownModel
from store.database import Database
from store.settings import Settings
from tests.support.models import find_model
from tests.support.tiny import save_tiny_llama
from worker.engine import model_files
from worker.engine.interface import ModelNotLoaded
from worker.engine.process import WorkerProcess


def test_a_download_by_the_loading_itself_is_no_replacement(
    process: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.config = process.config.model_copy(update={"model": "org/some-model"})
    found: list[tuple[str, ...]] = [()]
    monkeypatch.setattr(model_files, "files_of", lambda config: found[-1])
    process.serve()
    found.append(("snapshots/one/config.json",))
    assert not process.model_replaced()
    found.append(())
    assert not process.model_replaced(), "gone for a moment"
    found.append(("snapshots/two/config.json",))
    assert process.model_replaced()
    process.serve()
    assert not process.model_replaced()


@pytest.fixture
def tiny_known(monkeypatch: pytest.MonkeyPatch) -> KnownModel:
    known = KnownModel("tiny", "Tests.", "Apache-2.0", "llama", 2048, packages=("tiny==1.0",))
    monkeypatch.setitem(KNOWN, "tiny", known)
    return known


def test_a_known_model_is_looked_for_in_the_services_directory(
    tiny_known: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NAMM_MODELS", raising=False)
    config = Settings(data_dir=tmp_path, model="tiny")
    with pytest.raises(Refusal, match=f"palimpsest model add tiny --data {tmp_path}$") as refusal:
        model_files.source_of(config)
    assert refusal.value.code == "model_not_found"
    assert model_files.describe(config).name == "tiny"
    folder = save_tiny_llama(tmp_path / "models" / "tiny")
    (folder / MANIFEST).write_text("{}")
    assert model_files.source_of(config) == str(folder)
    assert model_files.describe(config).window == 2048
    assert len(model_files.files_of(config)) == 2
    assert model_files.files_age(config) < 60


def test_the_directory_of_models_is_a_setting(
    tiny_known: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAMM_MODELS", str(tmp_path / "elsewhere"))
    folder = tmp_path / "elsewhere" / "tiny"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text("{}")
    config = Settings(data_dir=tmp_path / "data", model="tiny")
    assert model_files.source_of(config) == str(folder)


def test_a_gguf_file_is_a_model_of_its_own_name(tmp_path: Path) -> None:
    file = tmp_path / "Tiny.Q4.gguf"
    file.write_bytes(b"GGUF")
    config = Settings(data_dir=tmp_path, model=str(file))
    assert config.served_model == "Tiny.Q4"
    assert model_files.source_of(config) == str(file)
    assert model_files.describe(config).name == "Tiny.Q4"
    before = model_files.files_of(config)
    file.write_bytes(b"GGUF, another")
    assert before != model_files.files_of(config) != ()


def test_a_refused_model_is_registered_and_logged_without_a_traceback(
    process: WorkerProcess, db: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny_llama(tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"")
    engine = "worker.engine:load"
    process.config = process.config.model_copy(update={"model": str(folder), "engine": engine})
    with pytest.raises(ModelNotLoaded, match="incomplete") as raised:
        process.serve()
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    with db.session() as session:
        served = find_model(session, "small", 60)
    assert served is not None
    assert served.errors == [str(raised.value)]
    assert "Traceback" not in capsys.readouterr().out
