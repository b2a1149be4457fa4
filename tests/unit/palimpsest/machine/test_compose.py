"""docker-compose.yml and Dockerfile, as far as they can be checked where there is no Docker."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml

from palimpsest.machine import supervisor
from store.settings import Settings
from tests.support import REPOSITORY

COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()
IGNORED = (REPOSITORY / ".dockerignore").read_text().splitlines()


def test_the_services_are_those_of_the_architecture() -> None:
    assert set(SERVICES) == {
        "postgres", "redis", "migrate", "api", "relay", "notifier", "conductor", "reaper", "scheduler",
        "worker-cpu", "worker-gpu",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["api", "relay", "notifier", "conductor", "reaper", "scheduler", "worker-cpu", "worker-gpu"]
)
def test_a_service_runs_the_command_that_runs_without_docker(name: str) -> None:
    without = supervisor.commands("0.0.0.0", 8080)["worker" if name.startswith("worker") else name]
    assert SERVICES[name]["command"] == ["python", *without[1:]]


@pytest.mark.parametrize("name", OURS)
def test_every_command_names_something_that_is_there(name: str) -> None:
    python, dash_m, module, *arguments = SERVICES[name]["command"]
    assert (python, dash_m) == ("python", "-m")
    assert importlib.util.find_spec(module) is not None
    if module == "migrations":
        assert importlib.util.find_spec("migrations.__main__") is not None
    elif module == "uvicorn":
        found, attribute = arguments[0].split(":")
        assert callable(getattr(importlib.import_module(found), attribute))
    elif module != "celery":
        assert callable(importlib.import_module(module).main)


@pytest.mark.parametrize(
    "name", [name for name in OURS if SERVICES[name]["command"][2] in ("uvicorn", "celery")]
)
def test_every_option_of_a_command_is_known_to_its_program(name: str) -> None:
    nowhere = {"DATABASE_URL": "postgresql://nowhere/none", "REDIS_URL": "redis://nowhere"}
    command = [sys.executable, *SERVICES[name]["command"][1:], "--help"]
    shown = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **nowhere, "COLUMNS": "300"}, check=False
    )
    assert shown.returncode == 0, shown.stderr
    for option in (word for word in command[3:] if word.startswith("--") and word not in ("--help", "--app")):
        assert option in shown.stdout


def test_only_services_and_volumes_that_exist_are_named() -> None:
    used = set()
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES, name
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[needed], needed
            if how["condition"] == "service_completed_successfully":
                assert SERVICES[needed]["restart"] == "no"
        used |= {volume.split(":")[0] for volume in service.get("volumes", [])}
    assert used == set(COMPOSE["volumes"])


def test_everything_of_ours_waits_for_the_schema() -> None:
    for name in OURS:
        waits = SERVICES[name]["depends_on"]
        assert "migrate" in waits or name == "migrate"
        assert waits["postgres"] == {"condition": "service_healthy"}


def test_documents_are_shared_by_those_who_need_them_and_nobody_else() -> None:
    sharing = {name for name, service in SERVICES.items() if "blobs:/data" in service.get("volumes", [])}
    assert sharing == {"api", "reaper", "conductor", "worker-cpu", "worker-gpu"}
    for name in OURS:
        assert SERVICES[name]["environment"]["PALIMPSEST_DATA_DIR"] == "/data"


def test_the_credentials_of_sources_are_with_those_who_use_them_and_nobody_else() -> None:
    holding = {name for name, service in SERVICES.items() if "sources" in service.get("secrets", [])}
    assert holding == {"api", "conductor"}
    for name in OURS:
        file = SERVICES[name]["environment"].get("PALIMPSEST_SOURCES_FILE")
        assert file == ("/run/secrets/sources" if name in holding else None)


def test_the_servers_keep_their_data() -> None:
    assert re.fullmatch(r"postgres:18(\.\d+)?", SERVICES["postgres"]["image"])
    assert SERVICES["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]
    version = re.fullmatch(r"redis:(\d+)\.\d+-alpine", SERVICES["redis"]["image"])
    assert version is not None
    assert int(version[1]) >= 7
    options = SERVICES["redis"]["command"]
    assert options[options.index("--appendonly") + 1] == "yes"
    assert options[options.index("--maxmemory-policy") + 1] == "noeviction"


def test_only_the_api_is_reachable_and_from_this_machine_only() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"api"}
    assert SERVICES["api"]["ports"] == ["127.0.0.1:8080:8080"]


def test_the_gpu_worker_sees_one_device_and_gets_the_cuda_image() -> None:
    worker = SERVICES["worker-gpu"]
    assert worker["build"]["target"] == "gpu"
    assert worker["environment"]["CUDA_VISIBLE_DEVICES"] == "0"
    assert worker["environment"]["PALIMPSEST_DEVICE"] == "cuda"
    [device] = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert re.search(r"^FROM nvidia/cuda:\S+ AS gpu$", DOCKERFILE, re.MULTILINE)


def test_every_setting_in_the_file_is_one() -> None:
    known = {f"PALIMPSEST_{name.upper()}" for name in Settings.model_fields}
    known |= {"DATABASE_URL", "REDIS_URL", "CUDA_VISIBLE_DEVICES"}
    for name in OURS:
        assert set(SERVICES[name]["environment"]) <= known, name


def test_no_secret_is_written_down() -> None:
    for secret in ("POSTGRES_PASSWORD", "PALIMPSEST_API_KEY_PEPPER"):
        text = (REPOSITORY / "docker-compose.yml").read_text()
        assert re.search(rf"\$\{{{secret}:\?", text)
        assert not re.search(rf"{secret}: [^$]", text)


def test_the_dockerfile_copies_what_is_there_and_what_the_packages_need() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert {SERVICES[name]["build"]["target"] for name in OURS} <= set(stages)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    assert all((REPOSITORY / name).exists() for name in names)
    assert {f"!{name}" for name in names} <= set(IGNORED)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    packages = {
        pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert packages <= set(names)
    for extras in re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE):
        assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    assert "flash-attn" in str(project["project"]["optional-dependencies"]["gpu"])


@pytest.mark.parametrize("path", ["docker-compose.yml", "Dockerfile"])
def test_it_is_said_that_the_images_have_never_been_built(path: str) -> None:
    assert "NEVER BUILT OR RUN" in "\n".join((REPOSITORY / path).read_text().splitlines()[:4])
