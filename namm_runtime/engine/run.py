"""One document's run through the engine: its tokens are counted, it is read, its prompts are answered."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from namm_runtime import policies
from namm_runtime.engine.answering import Answer, Answering, prompt_ids
from namm_runtime.engine.memory import CHUNK, Memory
from namm_runtime.engine.sampling import Sampler
from namm_runtime.engine.usage import Usage
from namm_runtime.errors import Refusal
from namm_runtime.model.loading import LoadedModel
from namm_runtime.model.token_stream import Place, TokenStream, counted
from namm_runtime.scorer import checkpoint, regime
from namm_runtime.scorer.regime import Regime

DEFAULT_BUDGET = 512
ANSWER_STEP = 16  # tokens of an answer per step
POSITIONS = ("auto", *regime.POSITIONS)


@dataclass(frozen=True)
class Request:
    """A document and the prompts to answer about it.

    Attributes:
        document: a UTF-8 file.
        prompts: each is answered from its own fork of the document's memory.
        policy: a name from `policies.names()`.
        scorer: a scorer, or the directory of its checkpoint; None uses the bundled scorer of the policy.
        budget: slots each KV head keeps.
        interval: tokens between evictions, a multiple of 16.
        watch_last: the policy observes only this many queries before each eviction, a multiple of 16.
        mode: `budget` or `parity`; `auto` is the mode that the scorer was evolved in.
        positions: `absolute` rotates by position in the text, `cache-relative` by slot; `auto` uses absolute
            positions if document and answers fit the model's window, else cache-relative ones.
        max_document_tokens: longer documents are refused before they are read.
        reading: `guided` by the prompts or `open`; None leaves it to the engine.

    If `budget`, `interval`, `watch_last` or `positions` is None, the scorer decides: its manifest's serving
    setting, else the one it was evolved in. Without a scorer the defaults are 512, 512, all and `auto`.
    """

    document: Path
    prompts: tuple[str, ...]
    policy: str = "namm-key"
    budget: int | None = None
    scorer: Path | checkpoint.Scorer | None = None
    interval: int | None = None
    watch_last: int | None = None
    mode: str = "auto"
    max_output_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    positions: str | None = None
    max_document_tokens: int | None = None
    reading: str | None = None
    on_risk: str = "report"


@dataclass
class Run:
    """One document in the engine.

    Attributes:
        phase: counting → reading → answering → done.
        tokens_total, tokens_read: of the document; the total is known once it is counted.
        answering: the answer that is being decoded.
        error: why it failed, if it did: a Refusal, or any other exception for a bug.

    Raises (on construction):
        Refusal: `unknown_policy`, `unknown_scorer`, `scorer_…`, `budget_out_of_range`, `bad_request`,
            `regime_mismatch`, `prompt_too_long`.
    """

    request: Request
    model: LoadedModel
    resume: Path | None = None
    phase: str = "counting"
    tokens_total: int = 0
    tokens_read: int = 0
    answers: list[Answer] = field(default_factory=list)
    answering: Answering | None = None
    usage: Usage = field(default_factory=Usage)
    error: Exception | None = None

    def __post_init__(self) -> None:
        request = self.request
        if request.positions not in (None, *POSITIONS):
            raise Refusal("bad_request", f"positions must be one of {', '.join(POSITIONS)}")
        if request.max_output_tokens < 1 or request.temperature < 0:
            raise Refusal("bad_request", "max_output_tokens must be at least 1 and temperature at least 0")
        if request.budget is not None and request.budget < 16:
            raise Refusal(
                "budget_out_of_range", f"a budget of {request.budget} slots is too small; the minimum is 16"
            )
        scorer = None
        bundled = policies.scorer_of(request.policy)
        if bundled is not None:
            scorer = checkpoint.given(request.scorer or checkpoint.resolve(bundled).path)
        usual = Regime(budget=DEFAULT_BUDGET, interval=CHUNK, positions="auto")
        if scorer is not None:
            mode = scorer.regime.mode if request.mode == "auto" else request.mode
            usual = regime.default_regime(scorer.regime, scorer.serving, mode)
        elif request.mode != "auto":
            usual = replace(usual, mode=request.mode)
        self._budget = request.budget or usual.budget
        if self._budget is None and usual.mode == "budget":
            self._budget = DEFAULT_BUDGET
        self._interval = usual.interval if request.interval is None else request.interval
        self._watch_last = usual.watch_last if request.watch_last is None else request.watch_last
        self._positions = request.positions or usual.positions
        self._policy = policies.make(request.policy, self._budget, scorer, usual.mode)
        self._place = Place()
        self.memory: Memory | None = None
        self._prompts = [prompt_ids(self.model, prompt, self._interval) for prompt in request.prompts]

    def steps(self) -> Iterator[None]:
        """Do the work, yielding after every unit."""
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
        """Write everything needed to resume in another process. The phase must be reading or answering.

        That is the memory, the position in the text and the answers so far, and for an answer in progress its
        fork of the memory, its tokens and the state of the random generator. The resumed run gives the same
        results bit for bit on the same CPU, build and thread count, whether sampled or greedy.
        """
        if self.memory is None:
            raise RuntimeError("there is nothing to save yet")
        with self.usage.timed("snapshot"):
            usage = asdict(self.usage)
            extra = {
                "phase": self.phase,
                "tokens_read": self.tokens_read,
                "place": asdict(self._place),
                "answers": [asdict(answer) for answer in self.answers],
                "answering": self.answering.state if self.answering else None,
                "usage": usage,
            }
            forks = {"answering": self.answering.memory} if self.answering else {}
            self.memory.save(path, extra, forks)
        self.usage.snapshot_bytes += path.stat().st_size

    # -- the phases ----------------------------------------------------------------------------------------

    def _count(self) -> Iterator[None]:
        limit = self.request.max_document_tokens
        begun = time.perf_counter()
        for tokens in counted(self.request.document, self.model.tokenizer):
            self.tokens_total = self.usage.tokens_document = tokens
            if limit is not None and tokens > limit:
                raise Refusal("document_too_long", f"the document exceeds the limit of {limit:,} tokens")
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
                self._note_read(len(waiting))
                self._feed(memory, waiting)
                waiting = []
                yield
            waiting += piece.ids[taken:]
        if waiting:
            self._note_read(len(waiting))
            self._feed(memory, waiting)
            yield
        for layer in memory.cache.layers:
            layer.check_integrity()

    def _note_read(self, tokens: int) -> None:
        self.tokens_read += tokens
        self.usage.tokens_read = self.tokens_read

    def _chunk(self, memory: Memory) -> int:
        """Tokens up to the next multiple of CHUNK, counting the tokens of the chat template before it."""
        return CHUNK - memory.clock % CHUNK

    def _feed(self, memory: Memory, ids: list[int]) -> Tensor:
        begun = time.perf_counter()
        logits = memory.feed(torch.tensor([ids], dtype=torch.int64, device=self.model.device))
        self._account(memory, "read", time.perf_counter() - begun)
        return logits

    def _answer(self, memory: Memory, prompt: str, ids: list[int]) -> Iterator[None]:
        answering = self.answering
        if answering is None:
            answering = self.answering = self._new_answering(memory.fork(), ids)
            self.usage.tokens_prompt += len(ids)
        while answering.reason is None:
            begun = time.perf_counter()
            answering.advance(ANSWER_STEP)
            self._account(answering.memory, "answer", time.perf_counter() - begun, beside=memory)
            if answering.reason is None:
                yield
        self.usage.tokens_generated += len(answering.produced)
        self.answers.append(Answer(prompt, answering.text, len(answering.produced), answering.reason))
        self.answering = None
        yield

    def _new_answering(self, fork: Memory, ids: list[int]) -> Answering:
        sampler = Sampler(self.request.temperature, self.request.seed)  # the same for every prompt
        return Answering(fork, ids, self.request.max_output_tokens, sampler)

    # -- set-up and accounting -----------------------------------------------------------------------------

    def _check_lengths(self) -> None:
        request, window = self.request, self.model.window
        if not self.tokens_total:
            raise Refusal("document_empty", "the document has no text")
        longest = max((len(ids) for ids in self._prompts), default=0)
        total = len(self.model.frame.prefix) + self.tokens_total + longest + request.max_output_tokens
        wanted = self._positions
        self._by_slot = wanted == "cache-relative" or (wanted == "auto" and total > window)
        self.usage.positions = "cache-relative" if self._by_slot else "absolute"
        parity = self._policy.mode == "parity"
        if (parity and self._by_slot) or (wanted == "absolute" and not request.positions and total > window):
            raise Refusal(
                "regime_mismatch",
                f"the scorer was evolved with absolute positions, of which this request needs {total:,}, and "
                f"the model was trained for {window:,}. Request absolute positions to exceed that, "
                "or budget mode with cache-relative positions",
            )
        if not self._policy.evicts and self._by_slot:
            raise Refusal(
                "document_too_long",
                f"a full cache needs {total:,} positions of the model's {window:,}; choose another policy",
            )
        if self._by_slot and self._budget is not None and self._budget + self._interval > window:
            raise Refusal(
                "budget_out_of_range",
                f"{self._budget} slots and {self._interval} new tokens exceed the model's window of {window}",
            )

    def _empty_memory(self) -> Memory:
        policy, request, usage = self._policy, self.request, self.usage
        memory = Memory(
            self.model, policy, self._budget, self._interval, self._by_slot, watch_last=self._watch_last
        )
        usage.mode, usage.budget = policy.mode, memory.budget
        usage.interval = self._interval if memory.evicting else None
        scorer = getattr(policy, "scorer", None)
        if scorer is not None:
            clip = scorer.config.recency_clip
            positions = str(usage.positions)
            served = Regime(policy.mode, memory.budget, self._interval, positions, clip, self._watch_last)
            mode = None if request.mode == "auto" else request.mode
            asked = regime.Settings(
                mode, request.budget, request.interval, request.positions, request.watch_last
            )
            usage.regime = regime.difference(scorer.regime, scorer.serving, served, asked)
            usage.regime_matches = usage.regime is None
        return memory

    def _restore(self, memory: Memory, path: Path) -> None:
        extra = memory.restore(path)
        self.phase, self.tokens_read = extra["phase"], extra["tokens_read"]
        self._place = Place(**extra["place"])
        self.answers = [Answer(**answer) for answer in extra["answers"]]
        if extra["answering"] is not None:
            fork = self._empty_memory()
            fork.restore(path, "answering")
            self.answering = self._new_answering(fork, self._prompts[len(self.answers)])
            self.answering.state = extra["answering"]
        counted = self.usage.seconds["count"]  # this attempt had to count again
        self.usage = Usage(**extra["usage"])
        self.usage.seconds["count"] += counted

    def _account(self, memory: Memory, phase: str, elapsed: float, beside: Memory | None = None) -> None:
        scored, memory.score_seconds = memory.score_seconds, 0.0
        self.usage.seconds["score"] += scored
        self.usage.seconds[phase] += elapsed - scored
        self.usage.observe(memory, elapsed, beside)
