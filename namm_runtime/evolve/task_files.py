"""A task of the search as a file, so that any process with the same model can do it, wherever it runs.

Both files are safetensors. The task's holds the candidates, the scorer's normaliser and, as JSON, the config,
the scorer's hyper-parameters and the documents to draw; the other one holds the marks, or why there are none.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from namm_runtime.errors import Refusal
from namm_runtime.evolve.batches import Draw
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.evaluators import Here, Task
from namm_runtime.evolve.fitness import Marks
from namm_runtime.model.loading import LoadedModel
from namm_runtime.scorer.checkpoint import Scorer, ScorerConfig

FORMAT = "1"


def write_task(path: Path, config: EvolutionConfig, model: LoadedModel, scorer: Scorer, task: Task) -> None:
    """Args: model: the one that the task is for; only that one will do it."""
    population, draw = task
    tensors = {"population": population.contiguous(), "mean": scorer.mean, "variance": scorer.variance}
    metadata = {
        "format": FORMAT,
        "model": _identity(model),
        "config": json.dumps(config.to_dict()),
        "scorer": json.dumps(asdict(scorer.config)),
        "draw": json.dumps(asdict(draw)),
    }
    save_file(tensors, path, metadata)


def carry_out(model: LoadedModel, task: Path, marks: Path) -> None:
    """Do a task and write the marks, or the reason why it cannot be done here."""
    try:
        found = _marks(model, task)
    except Exception as error:  # whoever waits for the marks has to hear of it, and would ask again for ever
        said = str(error) if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        save_file({"none": torch.zeros(1)}, marks, {"error": said})
        return
    save_file({name: tensor.contiguous() for name, tensor in vars(found).items()}, marks)


def read_marks(path: Path) -> Marks:
    """Raises Refusal `evolution_failed` where the worker gave a reason instead."""
    with safe_open(path, framework="pt") as file:
        error = (file.metadata() or {}).get("error")
        if error is not None:
            raise Refusal("evolution_failed", f"a worker could not examine the candidates: {error}")
        return Marks(*(file.get_tensor(name) for name in ("score", "exact", "kept")))


def _marks(model: LoadedModel, task: Path) -> Marks:
    try:
        with safe_open(task, framework="pt") as file:
            metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise Refusal("evolution_failed", f"the task cannot be read: {error}") from None
    if metadata.get("format") != FORMAT:
        raise Refusal("evolution_failed", "the task was written by another version of this program")
    if metadata["model"] != _identity(model):
        raise Refusal(
            "evolution_failed", f"the task is for the model {metadata['model']}, not {_identity(model)}"
        )
    config = EvolutionConfig.from_dict(json.loads(metadata["config"]))
    scorer = Scorer(
        config.name,
        config.version,
        ScorerConfig(**json.loads(metadata["scorer"])),
        parameters=tensors["population"][0],
        mean=tensors["mean"],
        variance=tensors["variance"],
    )
    draw = json.loads(metadata["draw"])
    wanted = Draw(draw["split"], draw["seed"], tuple(draw["families"]))
    return Here(model, config).mark(scorer, [(tensors["population"], wanted)])[0]


def _identity(model: LoadedModel) -> str:
    return f"{model.revision} in {model.model.dtype}"
