"""One document's way through the engine: counted, read, asked."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from namm_runtime import checkpoint, policies
from namm_runtime.accounting import Usage
from namm_runtime.errors import Refusal
from namm_runtime.loading import LoadedModel
from namm_runtime.memory import CHUNK, Memory
from namm_runtime.sampling import Sampler
from namm_runtime.text import Place, TokenStream, counted

DEFAULT_BUDGET = 512
POSITIONS = ("auto", "absolute", "cache-relative")


@dataclass(frozen=True)
class Request:
    """A document and what to ask of it.

    Attributes:
        document: a UTF-8 file.
        prompts: each is answered from its own fork of the document's memory.
        policy: a name from `policies.names()`.
        budget: slots a KV head keeps; None takes the default of 512, or in parity mode the scorer's own cap.
        scorer: directory of a scorer checkpoint; None takes the bundled one named like the policy.
        interval: tokens between evictions, a multiple of 16.
        watch_last: the policy sees only so many queries before each eviction, a multiple of 16; None: all.
        mode: `auto` is the one that the scorer was evolved in, `budget` without a scorer; `budget` and
            `parity` can be asked for.
        positions: `auto` rotates by place in the text where document and answers fit the model's window and
            by slot (`cache-relative`) beyond; either can be asked for.
        max_document_tokens: longer documents are refused before they are read.
    """

    document: Path
    prompts: tuple[str, ...]
    policy: str = "namm-key"
    budget: int | None = None
    scorer: Path | None = None
    interval: int = CHUNK
    watch_last: int | None = None
    mode: str = "auto"
    max_output_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    positions: str = "auto"
    max_document_tokens: int | None = None


@dataclass(frozen=True)
class Answer:
    """One prompt's answer; `finish_reason` is `stop` or `length`."""

    prompt: str
    text: str
    tokens: int
    finish_reason: str


@dataclass
class Run:
    """One document in the engine.

    Attributes:
        phase: counting → reading → answering → done.
        tokens_total, tokens_read: of the document, known once counted.
        error: why it ended early, if it did: a Refusal, or a defect of ours.

    Raises (on construction):
        Refusal: `unknown_policy`, `unknown_scorer`, `scorer_…`, `budget_out_of_range`, `bad_request`,
            `regime_mismatch`.
    """

    request: Request
    model: LoadedModel
    resume: Path | None = None
    phase: str = "counting"
    tokens_total: int = 0
    tokens_read: int = 0
    answers: list[Answer] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    error: Exception | None = None

    def __post_init__(self) -> None:
        request = self.request
        if request.positions not in POSITIONS:
            raise Refusal("bad_request", f"positions must be one of {', '.join(POSITIONS)}")
        if request.max_output_tokens < 1 or request.temperature < 0:
            raise Refusal("bad_request", "max_output_tokens must be at least 1 and temperature at least 0")
        if request.budget is not None and request.budget < 16:
            raise Refusal(
                "budget_out_of_range", f"a budget of {request.budget} slots is too small; 16 is the least"
            )
        bundled = policies.scorer_of(request.policy)
        scorer = None
        if bundled is not None:
            scorer = checkpoint.load(request.scorer or checkpoint.resolve(bundled).path)
        mode = request.mode
        if mode == "auto":
            mode = scorer.regime.mode if scorer else "budget"
        self._budget = request.budget
        if self._budget is None and mode == "budget":
            self._budget = DEFAULT_BUDGET
        self._policy = policies.make(request.policy, self._budget, scorer, mode)
        self._place = Place()
        self.memory: Memory | None = None
        self._prompts = [self._prompt_ids(prompt) for prompt in request.prompts]

    def steps(self) -> Iterator[None]:
        """Do the work, yielding after every unit of it."""
        yield from self._count()
        self._check_lengths()
        self.memory = self._empty_memory()
        if self.resume is not None:
            self._restore(self.memory, self.resume)
        yield
        if self.phase in ("counting", "reading"):
            self.phase = "reading"
            yield from self._read(self.memory)
        self.phase = "answering"
        for prompt, ids in list(zip(self.request.prompts, self._prompts, strict=True))[len(self.answers) :]:
            yield from self._answer(self.memory, prompt, ids)
        self.phase = "done"

    def snapshot(self, path: Path) -> None:
        """Write everything needed to go on in another process. Needs the phase reading or answering."""
        if self.memory is None:
            raise RuntimeError("nothing has been read yet")
        with self.usage.timed("snapshot"):
            usage = asdict(self.usage)
            extra = {
                "phase": self.phase,
                "tokens_read": self.tokens_read,
                "place": asdict(self._place),
                "answers": [asdict(answer) for answer in self.answers],
                "usage": usage,
            }
            self.memory.save(path, extra)

    # -- the phases ----------------------------------------------------------------------------------------

    def _count(self) -> Iterator[None]:
        limit = self.request.max_document_tokens
        begun = time.perf_counter()
        for tokens in counted(self.request.document, self.model.tokenizer):
            self.tokens_total = self.usage.tokens_document = tokens
            if limit is not None and tokens > limit:
                raise Refusal("document_too_long", f"the document has more than {limit:,} tokens, the limit")
            self.usage.seconds["count"] += time.perf_counter() - begun
            yield
            begun = time.perf_counter()

    def _read(self, memory: Memory) -> Iterator[None]:
        frame = self.model.frame
        if memory.clock == 0 and frame.prefix:
            self._feed(memory, list(frame.prefix))
        waiting: list[int] = []
        for piece in TokenStream(self.request.document, self.model.tokenizer, self._place):
            taken = 0
            while len(waiting) + len(piece.ids) - taken >= (size := self._chunk(memory)):
                need = size - len(waiting)
                waiting += piece.ids[taken : taken + need]
                taken += need
                self._place = Place(piece.byte, piece.first + taken)
                self.tokens_read += len(waiting)
                self._feed(memory, waiting)
                waiting = []
                yield
            waiting += piece.ids[taken:]
        if waiting:
            self.tokens_read += len(waiting)
            self._feed(memory, waiting)
            yield
        for layer in memory.cache.layers:
            layer.check_integrity()

    def _chunk(self, memory: Memory) -> int:
        """Tokens up to the next multiple of a chunk: the opening of a chat template shifts nothing."""
        return CHUNK - memory.clock % CHUNK

    def _feed(self, memory: Memory, ids: list[int]) -> Tensor:
        begun = time.perf_counter()
        logits = memory.feed(self._tensor(ids))
        self._account(memory, "read", time.perf_counter() - begun)
        return logits

    def _answer(self, memory: Memory, prompt: str, ids: list[int]) -> Iterator[None]:
        request, tokenizer = self.request, self.model.tokenizer
        sampler = Sampler(request.temperature, request.seed)
        self.usage.tokens_prompt += len(ids)
        produced: list[int] = []
        begun = time.perf_counter()
        fork = memory.fork()
        logits = fork.feed(self._tensor(ids))
        reason = "length"
        while len(produced) < request.max_output_tokens:
            token = sampler.choose(logits)
            if token in self.model.stop_ids:
                reason = "stop"
                break
            produced.append(token)
            if len(produced) < request.max_output_tokens:
                logits = fork.feed(self._tensor([token]))
            if len(produced) % 16 == 0:
                self._account(fork, "answer", time.perf_counter() - begun, beside=memory)
                yield
                begun = time.perf_counter()
        self._account(fork, "answer", time.perf_counter() - begun, beside=memory)
        self.usage.tokens_generated += len(produced)
        text = tokenizer.decode(produced, skip_special_tokens=True).strip()
        self.answers.append(Answer(prompt, text, len(produced), reason))
        yield

    # -- around them ---------------------------------------------------------------------------------------

    def _check_lengths(self) -> None:
        request, window = self.request, self.model.window
        if not self.tokens_total:
            raise Refusal("document_empty", "the document has no text")
        longest = max((len(ids) for ids in self._prompts), default=0)
        if longest > request.interval:
            raise Refusal(
                "prompt_too_long",
                f"a prompt has {longest} tokens; at most {request.interval} fit beside the memory",
            )
        total = len(self.model.frame.prefix) + self.tokens_total + longest + request.max_output_tokens
        self._by_slot = request.positions == "cache-relative" or (
            request.positions == "auto" and total > window
        )
        self.usage.positions = "cache-relative" if self._by_slot else "absolute"
        if self._policy.mode == "parity" and self._by_slot:
            raise Refusal(
                "regime_mismatch",
                f"parity mode needs {total:,} places in the text and the model was trained for {window:,}; "
                "take budget mode, or ask for absolute positions to go beyond",
            )
        if not self._policy.evicts and self._by_slot:
            raise Refusal(
                "document_too_long",
                f"a full cache needs {total:,} positions of the model's {window:,}; choose another policy",
            )
        if self._by_slot and self._budget is not None and self._budget + request.interval > window:
            raise Refusal(
                "budget_out_of_range",
                f"{self._budget} slots and {request.interval} new tokens exceed the window of {window}",
            )

    def _empty_memory(self) -> Memory:
        request = self.request
        memory = Memory(
            self.model,
            self._policy,
            self._budget,
            request.interval,
            self._by_slot,
            watch_last=request.watch_last,
        )
        scorer = getattr(self._policy, "scorer", None)
        if scorer is not None:
            served = (self._policy.mode, self.usage.positions, request.interval, memory.budget)
            regime = scorer.regime
            evolved = (regime.mode, regime.positions, regime.interval, regime.budget)
            self.usage.regime_matches = served == evolved and request.watch_last is None
        return memory

    def _prompt_ids(self, prompt: str) -> list[int]:
        return self.model.frame.prompt_ids(self.model.tokenizer, prompt)

    def _restore(self, memory: Memory, path: Path) -> None:
        extra = memory.restore(path)
        self.phase, self.tokens_read = extra["phase"], extra["tokens_read"]
        self._place = Place(**extra["place"])
        self.answers = [Answer(**answer) for answer in extra["answers"]]
        counted = self.usage.seconds["count"]  # counting again was this attempt's work
        self.usage = Usage(**extra["usage"])
        self.usage.seconds["count"] += counted

    def _account(self, memory: Memory, phase: str, elapsed: float, beside: Memory | None = None) -> None:
        scored, memory.score_seconds = memory.score_seconds, 0.0
        self.usage.seconds["score"] += scored
        self.usage.seconds[phase] += elapsed - scored
        self.usage.observe(memory, elapsed, beside)

    def _tensor(self, ids: list[int]) -> Tensor:
        return torch.tensor([ids], dtype=torch.int64, device=self.model.device)
