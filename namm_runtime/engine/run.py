"""One document's run through the engine: its tokens are counted, it is read, its prompts are answered."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from namm_runtime.engine import warnings
from namm_runtime.engine.answering import Answer, Answering
from namm_runtime.engine.memory import CHUNK, Memory
from namm_runtime.engine.memory_file import read_extra
from namm_runtime.engine.plan import Plan
from namm_runtime.engine.request import Request
from namm_runtime.engine.sampling import Sampler
from namm_runtime.engine.usage import Usage
from namm_runtime.errors import Refusal
from namm_runtime.model.loading import LoadedModel
from namm_runtime.model.token_stream import Place, TokenStream, counted

ANSWER_STEP = 16  # tokens of an answer per step


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
        if self.request.max_output_tokens < 1 or self.request.temperature < 0:
            raise Refusal("bad_request", "max_output_tokens must be at least 1 and temperature at least 0")
        self._plan = Plan.of(self.request, self.model)
        self._place = Place()
        self.memory: Memory | None = None
        # The prompts that this reading is for, by index, and how many of them have been answered from it.
        self._asked, self._answered = list(range(len(self.request.prompts))), 0

    def steps(self) -> Iterator[None]:
        """Do the work, yielding after every unit."""
        yield from self._count()
        self._plan = self._plan.for_document(self.tokens_total)
        if self.resume is not None:
            self._restore(self.resume)
        else:
            self._begin_reading(self._plan, self._asked)
        yield
        while True:
            if self.phase == "reading":
                yield from self._read(self._memory)
            self.phase = "answering"
            for index in self._asked[self._answered :]:
                yield from self._answer(index)
            larger = self._reread_with()
            if larger is None:
                break
            self.usage.rereads += 1
            self._begin_reading(larger, [i for i, answer in enumerate(self.answers) if answer.at_risk])
            yield
        self.usage.warnings += warnings.of(self._memory, self._plan, self.usage)
        self.phase = "done"

    def _begin_reading(self, plan: Plan, asked: list[int]) -> None:
        self._plan, self._asked, self._answered = plan, asked, 0
        self._place, self.tokens_read, self.phase = Place(), 0, "reading"
        self.memory = plan.memory(asked)
        plan.record(self.usage, self.memory)

    def _reread_with(self) -> Plan | None:
        """How to read the document again, if answers are at risk and that was asked for."""
        at_risk = any(answer.at_risk for answer in self.answers)
        if self.request.on_risk != "reread" or self.usage.rereads or not at_risk:
            return None
        larger = self._plan.larger()
        if larger is None:
            self.usage.warnings.append(warnings.no_larger_budget(self._plan))
        return larger

    @property
    def _memory(self) -> Memory:
        assert self.memory is not None
        return self.memory

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
                "budget": self._plan.budget,
                "asked": self._asked,
                "answered": self._answered,
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
        self.usage.tokens_read += tokens

    def _chunk(self, memory: Memory) -> int:
        """Tokens up to the next multiple of CHUNK, counting the tokens of the chat template before it."""
        return CHUNK - memory.clock % CHUNK

    def _feed(self, memory: Memory, ids: list[int]) -> Tensor:
        begun = time.perf_counter()
        logits = memory.feed(torch.tensor([ids], dtype=torch.int64, device=self.model.device))
        self._account(memory, "read", time.perf_counter() - begun)
        return logits

    def _answer(self, index: int) -> Iterator[None]:
        memory, ids = self._memory, self._plan.prompts[index]
        answering = self.answering
        if answering is None:
            answering = self.answering = self._new_answering(memory.fork_for(ids), ids)
            self.usage.tokens_prompt += len(ids)
        while answering.reason is None:
            begun = time.perf_counter()
            answering.advance(ANSWER_STEP)
            self._account(answering.memory, "answer", time.perf_counter() - begun, beside=memory)
            if answering.reason is None:
                yield
        self.usage.tokens_generated += len(answering.produced)
        answer = answering.finish(self.request.prompts[index], memory)
        self.answers[index : index + 1] = [answer]  # appended, or in place of the one at risk
        self._answered, self.answering = self._answered + 1, None
        yield

    def _new_answering(self, fork: Memory, ids: Sequence[int]) -> Answering:
        sampler = Sampler(self.request.temperature, self.request.seed)  # the same for every prompt
        return Answering(fork, ids, self.request.max_output_tokens, sampler)

    # -- resuming and accounting ---------------------------------------------------------------------------

    def _restore(self, path: Path) -> None:
        extra = read_extra(path)
        usage = Usage(**extra["usage"])
        self._begin_reading(replace(self._plan, budget=extra["budget"]), extra["asked"])
        self._memory.restore(path)
        self._answered, self.phase, self.tokens_read = extra["answered"], extra["phase"], extra["tokens_read"]
        self._place = Place(**extra["place"])
        self.answers = [Answer(**answer) for answer in extra["answers"]]
        if extra["answering"] is not None:
            ids = self._plan.prompts[self._asked[self._answered]]
            fork = self._memory.fork_for(ids)
            fork.restore(path, "answering")
            self.answering = self._new_answering(fork, ids)
            self.answering.state = extra["answering"]
        usage.seconds["count"] += self.usage.seconds["count"]  # this attempt had to count again
        self.usage = usage

    def _account(self, memory: Memory, phase: str, elapsed: float, beside: Memory | None = None) -> None:
        scored, memory.score_seconds = memory.score_seconds, 0.0
        self.usage.seconds["score"] += scored
        self.usage.seconds[phase] += elapsed - scored
        self.usage.observe(memory, elapsed, beside)
