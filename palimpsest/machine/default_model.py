"""Which model the worker of `palimpsest up` serves, and with how many cache slots. Does not load torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from namm_runtime.bundled import MODELS
from namm_runtime.model.catalogue import is_fetched
from store.settings import Settings
from worker.engine.model_files import describe

BEST_FIRST = ("qwen2.5-coder-1.5b", "smollm2-135m")
RECOMMENDED = "smollm2-135m"  # small enough for any machine
MAX_SLOTS = 8192


@dataclass(frozen=True)
class ModelChoice:
    """What the child processes are told, and what the user is told about it, sentence by sentence."""

    environment: dict[str, str] = field(default_factory=dict)
    sentences: tuple[str, ...] = ()


def choose(settings: Settings, environment: Mapping[str, str]) -> ModelChoice:
    """The best fetched model unless a setting names one, and a cache budget that suits its window."""
    named = bool(environment.get("PALIMPSEST_MODEL"))
    fetched = [name for name in BEST_FIRST if is_fetched(name, settings.models)]
    model = settings.model if named else next(iter(fetched), settings.model)
    if model in MODELS:
        return ModelChoice(sentences=() if named else _about_the_fixture(settings))
    chosen: dict[str, str] = {} if named else {"PALIMPSEST_MODEL": model}
    slots = None if settings.default_cache_budget else slots_for(settings.model_copy(update={"model": model}))
    if slots is not None:
        chosen["PALIMPSEST_DEFAULT_CACHE_BUDGET"] = str(slots)
    return ModelChoice(chosen, (_about(model, named, fetched, slots),))


def slots_for(settings: Settings) -> int | None:
    """A quarter of the model's window, at most `MAX_SLOTS`; None if its files do not say the window."""
    try:
        window = describe(settings).window
    except (OSError, ValueError):
        return None  # the worker reports what is wrong with the files
    return None if window is None else min(window // 4, MAX_SLOTS)


def fetch_command(name: str, settings: Settings) -> str:
    """The command that fetches a known model to where this service looks for it."""
    own = settings.models_dir is None and settings.data_dir != Settings.model_fields["data_dir"].default
    return f"palimpsest model add {name}" + (f" --data {settings.data_dir}" if own else "")


def _about_the_fixture(settings: Settings) -> tuple[str, ...]:
    return (
        "No model has been fetched, so the worker serves the bundled one, which is a test fixture: it "
        "completes lines it has read (Invoice 4821 total: …) and cannot follow instructions.",
        f"This fetches a real one, 93 MB, for the next start: {fetch_command(RECOMMENDED, settings)}",
    )


def _about(model: str, named: bool, fetched: list[str], slots: int | None) -> str:
    name = Path(model).name
    sentence = f"The worker serves {name}"
    if not named:
        sentence += ", the best of the models that have been fetched" * (len(fetched) > 1)
        sentence += " (PALIMPSEST_MODEL chooses another)"
    if slots is not None:
        sentence += f", with {slots:,} cache slots per head unless a job says otherwise"
    return sentence
