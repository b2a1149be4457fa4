"""An engine without a model, with the surface of the real one: for tests of everything around it.

It reads a document 64 bytes a step, each of which takes `PALIMPSEST_STANDIN_SECONDS` (0.01), and
answers each prompt with a digest of the whole document and the prompt, so that a run that skipped or repeated
a part of the document is found out; and with what is in the file of the registry's scorer, if it runs with
one. Words in the prompt make it misbehave:

    refuse-now, refuse-later, break-now, break-later, hang, nul, repeat

or say that a guided reading has evicted much of what the prompt attends to (`evicted`), and that its slots
have piled up (`piled`).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from store.blobs import Blobs
from store.settings import Settings
from store.tables.jobs import Job
from store.workers import ModelCard
from worker.engine import ScorerPin, Served

CHUNK = 64
REVISION = "standin-1"


class Refusal(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True)
class Request:
    document: Path
    prompts: tuple[str, ...]
    scorer: ScorerPin | None = None
    reading: str = "open"
    on_risk: str = "report"

    def asks(self, word: str) -> bool:
        return any(word in prompt for prompt in self.prompts)


@dataclass(frozen=True)
class Answer:
    prompt: str
    text: str
    tokens: int = 1
    finish_reason: str = "stop"
    guided: bool = False
    evicted_attention: float | None = None
    at_risk: bool = False


@dataclass
class Usage:
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "answer": 0.0})
    tokens_document: int = 0
    tokens_generated: int = 0
    peak_bytes: int = 0
    dense_bytes: int = 0
    kv_byte_seconds: float = 0.0
    dense_byte_seconds: float = 0.0
    positions: str | None = None  # known once counted, as in the real engine
    reading: str = "open"
    rereads: int = 0
    warnings: list[dict[str, str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Run:
    request: Request
    resume: Path | None = None
    phase: str = "counting"
    tokens_total: int = 0
    tokens_read: int = 0
    answers: list[Answer] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    error: Refusal | None = None
    seen: str = ""  # digest over the chunks so far

    def snapshot(self, path: Path) -> None:
        state = {
            "read": self.tokens_read,
            "seen": self.seen,
            "usage": asdict(self.usage),
            "phase": self.phase,
        }
        state["answers"] = [asdict(answer) for answer in self.answers]
        path.write_text(json.dumps(state))

    def advance(self, pause: float) -> None:
        time.sleep(pause)
        if self.phase == "counting":
            self._count()
        elif self.phase == "reading":
            self._read(pause)
        elif self.phase == "answering":
            self._answer(pause)

    def _count(self) -> None:
        self.tokens_total = self.usage.tokens_document = self.request.document.stat().st_size
        if self.request.asks("refuse-now"):
            raise Refusal("prompt_too_long", "The prompt is too long.")
        self.phase = "reading"
        if self.resume is not None:
            state = json.loads(self.resume.read_text())
            self.tokens_read, self.seen = state["read"], state["seen"]
            self.usage = Usage(**state["usage"])
            self.answers = [Answer(**answer) for answer in state["answers"]]
            self.phase = state["phase"]
        self.usage.positions, self.usage.reading = "absolute", self.request.reading
        if self.request.asks("piled"):
            self.usage.warnings = [{"code": "slots_piled_up", "message": "Most slots lie in one fifth."}]

    def _read(self, pause: float) -> None:
        if self.tokens_read >= CHUNK * 3:
            if self.request.asks("refuse-later"):
                raise Refusal("document_not_text", "The document is not text.")
            if self.request.asks("break-later"):
                raise RuntimeError("broken on purpose")
            if self.request.asks("hang"):
                time.sleep(3600)
        with self.request.document.open("rb") as file:
            file.seek(self.tokens_read)
            chunk = file.read(CHUNK)
        self.seen = digest(self.seen.encode() + chunk)
        self.tokens_read += len(chunk)
        usage = self.usage
        usage.seconds["read"] += pause
        usage.dense_bytes = 100 * self.tokens_read
        usage.peak_bytes = min(10_000, usage.dense_bytes)
        usage.kv_byte_seconds += pause * usage.peak_bytes
        usage.dense_byte_seconds += pause * usage.dense_bytes
        if self.tokens_read == self.tokens_total:
            self.phase = "answering"

    def _answer(self, pause: float) -> None:
        prompt = self.request.prompts[len(self.answers)]
        self.usage.seconds["answer"] += pause
        self.usage.tokens_generated += 1
        text = "a\x00b" if "nul" in prompt else digest((self.seen + prompt).encode())
        scorer = self.request.scorer
        if scorer is not None and scorer.loaded is not None:
            text += f" {scorer.loaded}"  # what its file says, not what it is called
        guided = self.request.reading == "guided"
        share = 0.41 if guided and "evicted" in prompt else 0.02 if guided else None
        reason = "repetition" if "repeat" in prompt else "stop"
        self.answers.append(
            Answer(
                prompt,
                text,
                finish_reason=reason,
                guided=guided,
                evicted_attention=share,
                at_risk=share == 0.41,
            )
        )
        if len(self.answers) == len(self.request.prompts):
            self.phase = "done"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def right_answer(document: bytes, prompt: str) -> str:
    """What a run over the whole document, read once and in order, answers."""
    seen = ""
    for start in range(0, len(document), CHUNK):
        seen = digest(seen.encode() + document[start : start + CHUNK])
    return digest((seen + prompt).encode())


class Engine:
    def __init__(self, slots: int, pause: float) -> None:
        self.slots, self.pause = slots, pause
        self.runs: list[Run] = []

    @property
    def free_slots(self) -> int:
        return self.slots - len(self.runs)

    def admit(self, request: Request, snapshot: Path | None = None) -> Run:
        if request.asks("break-now"):
            raise RuntimeError("broken on purpose")
        run = Run(request, snapshot)
        self.runs.append(run)
        return run

    def step(self) -> list[Run]:
        for run in list(self.runs):
            try:
                run.advance(self.pause)
            except Refusal as refusal:
                run.error, run.phase = refusal, "done"
            except BaseException:
                self.release(run)
                raise
        finished = [run for run in self.runs if run.phase == "done"]
        self.runs = [run for run in self.runs if run.phase != "done"]
        return finished

    def release(self, run: Run) -> None:
        self.runs = [other for other in self.runs if other is not run]


def load(config: Settings) -> Served:
    """The setting `engine` names this function in tests: `tests.support.standin:load`."""
    pause = float(os.environ.get("PALIMPSEST_STANDIN_SECONDS", "0.01"))
    if config.model == "unloadable":
        raise Refusal("model_not_found", "There is no such model.")
    pins = {"namm": ScorerPin("namm", "1", "ab" * 32, Path("nowhere"))}

    def resolve_scorer(policy: str, asked: str | None) -> ScorerPin | None:
        if policy != "namm":
            return None
        if (asked or policy).partition("@")[0] not in pins:
            raise Refusal("unknown_scorer", f"There is no scorer '{asked}'.")
        return pins[(asked or policy).partition("@")[0]]

    def make_request(job: Job, document: Path, scorer: ScorerPin | None) -> Request:
        return Request(document, tuple(job.prompts), scorer, job.reading, job.on_risk)

    card = ModelCard(
        config.served_model,
        REVISION,
        window=1024,
        vocab_size=256,
        dense_bytes_per_token=100,
        tokenizer_sha256="cd" * 32,
        policies=["namm", "window"],
        scorers=[{"name": "namm", "version": "1", "sha256": "ab" * 32}],
        default_policy="window",
        default_policy_reason="The stand-in knows no better one.",
    )

    def run_evolution_task(task: Path, marks: Path) -> None:
        marks.write_bytes(b"marks of " + task.read_bytes())

    return Served(
        engine=Engine(config.slots or 1, pause),
        card=card,
        refusal=Refusal,
        resolve_scorer=resolve_scorer,
        make_request=make_request,
        run_evolution_task=run_evolution_task,
        scorer_of=lambda policy: "namm" if policy == "namm" else None,
        read_scorer=read_scorer,
    )


def save_scorer(blobs: Blobs, key: str, content: str) -> str:
    """A version's folder as the registry keeps it; gives the sha256 of its scorer.safetensors."""
    with blobs.create(f"{key}/scorer.safetensors") as file:
        file.write(content.encode())
    with blobs.create(f"{key}/manifest.json") as file:
        file.write(b"{}")
    return hashlib.sha256(content.encode()).hexdigest()


def read_scorer(folder: Path) -> ScorerPin:
    """Its answers will say what is in the file."""
    (folder / "manifest.json").read_bytes()
    content = (folder / "scorer.safetensors").read_text()
    if content == "unreadable":
        raise Refusal("scorer_unreadable", "It cannot be read.")
    return ScorerPin("?", "?", digest(content.encode()), folder, loaded=content)
