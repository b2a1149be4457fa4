"""Evaluation tasks of a search as files, so that any process with the same model can run them on any machine.

Both files are safetensors. The task file holds the candidates, the scorer's normaliser and, as JSON, the
config, the scorer's hyper-parameters and the sample of documents; the result file holds the scores, or an
error.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from namm_runtime.errors import Refusal
from namm_runtime.evolve.batches import DocumentSample
from namm_runtime.evolve.config import EvolutionConfig
from namm_runtime.evolve.evaluators import LocalEvaluator, Task
from namm_runtime.evolve.fitness import Scores
from namm_runtime.model.loading import LoadedModel
from namm_runtime.scorer.checkpoint import Scorer, ScorerConfig

FORMAT = "1"


def write_task(path: Path, config: EvolutionConfig, model: LoadedModel, scorer: Scorer, task: Task) -> None:
    """Write one task. Only a process that has loaded the same `model` will run it."""
    population, sample = task
    tensors = {"population": population.contiguous(), "mean": scorer.mean, "variance": scorer.variance}
    metadata = {
        "format": FORMAT,
        "model": _identity(model),
        "config": json.dumps(config.to_dict()),
        "scorer": json.dumps(asdict(scorer.config)),
        "draw": json.dumps(asdict(sample)),
    }
    save_file(tensors, path, metadata)


def run_task(model: LoadedModel, task: Path, result: Path) -> None:
    """Run a task file and write its scores to `result`, or the reason why it could not be run."""
    try:
        scores = _evaluate(model, task)
    except Exception as error:  # the search has to be told, or it would resend the task for ever
        said = str(error) if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
        save_file({"none": torch.zeros(1)}, result, {"error": said})
        return
    save_file({name: tensor.contiguous() for name, tensor in vars(scores).items()}, result)


def read_scores(path: Path) -> Scores:
    """Read a result file.

    Raises:
        Refusal: `evolution_failed` if the worker reported an error instead.
    """
    with safe_open(path, framework="pt") as file:
        error = (file.metadata() or {}).get("error")
        if error is not None:
            raise Refusal("evolution_failed", f"a worker could not evaluate the candidates: {error}")
        return Scores(*(file.get_tensor(name) for name in ("score", "exact", "kept")))


def _evaluate(model: LoadedModel, task: Path) -> Scores:
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
    fields = json.loads(metadata["draw"])
    sample = DocumentSample(fields["split"], fields["seed"], tuple(fields["families"]))
    return LocalEvaluator(model, config).evaluate(scorer, [(tensors["population"], sample)])[0]


def _identity(model: LoadedModel) -> str:
    return f"{model.revision} in {model.model.dtype}"
