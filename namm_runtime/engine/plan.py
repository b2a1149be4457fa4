"""How a request is read: its settings after those it leaves open have been taken from the scorer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from namm_runtime import policies
from namm_runtime.engine.answering import prompt_ids
from namm_runtime.engine.memory import CHUNK, Memory
from namm_runtime.engine.request import DEFAULT_BUDGET, Request
from namm_runtime.engine.usage import Usage
from namm_runtime.errors import Refusal
from namm_runtime.model.loading import LoadedModel
from namm_runtime.scorer import checkpoint, regime
from namm_runtime.scorer.checkpoint import Scorer
from namm_runtime.scorer.regime import Regime


@dataclass(frozen=True)
class Plan:
    """The settings of one reading.

    Attributes:
        policy: its name.
        usual: mode, interval and positions, of which the request may have named some.
        budget: slots per head; None for no limit.
        prompts: token ids of all prompts of the request.
        guided: whether the prompts guide the reading.
        by_slot: cache-relative positions; known once the document has been counted.
    """

    request: Request
    model: LoadedModel
    policy: str
    scorer: Scorer | None
    usual: Regime
    budget: int | None
    prompts: tuple[tuple[int, ...], ...]
    guided: bool
    by_slot: bool = False

    @classmethod
    def of(cls, request: Request, model: LoadedModel) -> "Plan":
        """Resolve a request.

        Raises:
            Refusal: as `Run`.
        """
        request.check()
        scorer = None
        name = request.policy or policies.default_for(model)[0]
        bundled = policies.scorer_of(name)
        if bundled is not None:
            scorer = checkpoint.given(request.scorer or checkpoint.resolve(bundled).path)
        usual = Regime(budget=DEFAULT_BUDGET, interval=CHUNK, positions="auto")
        if scorer is not None:
            mode = scorer.regime.mode if request.mode == "auto" else request.mode
            usual = regime.default_regime(scorer.regime, scorer.serving, mode)
        elif request.mode != "auto":
            usual = replace(usual, mode=request.mode)
        budget = request.budget or usual.budget
        if budget is None and usual.mode == "budget":
            budget = DEFAULT_BUDGET
        usual = replace(
            usual,
            interval=usual.interval if request.interval is None else request.interval,
            watch_last=usual.watch_last if request.watch_last is None else request.watch_last,
            positions=request.positions or usual.positions,
        )
        prompts = tuple(tuple(prompt_ids(model, prompt, usual.interval)) for prompt in request.prompts)
        policy = policies.make(name, budget, scorer, usual.mode)
        may_guide = bool(prompts) and policy.evicts and usual.mode == "budget"
        if request.reading == "guided" and usual.mode != "budget":
            raise Refusal("regime_mismatch", "parity mode does not support guided reading; use open reading")
        return cls(
            request, model, name, scorer, usual, budget, prompts, may_guide and request.reading != "open"
        )

    def for_document(self, tokens: int) -> "Plan":
        """Choose the positions for a document of that many tokens.

        Raises:
            Refusal: `document_empty`, `document_too_long`, `budget_out_of_range`, `regime_mismatch`.
        """
        request, usual, window = self.request, self.usual, self.model.window
        if not tokens:
            raise Refusal("document_empty", "the document has no text")
        longest = max((len(ids) for ids in self.prompts), default=0)
        total = len(self.model.frame.prefix) + tokens + longest + request.max_output_tokens
        wanted = usual.positions
        by_slot = wanted == "cache-relative" or (wanted == "auto" and total > window)
        parity = usual.mode == "parity"
        if (parity and by_slot) or (wanted == "absolute" and not request.positions and total > window):
            raise Refusal(
                "regime_mismatch",
                f"the scorer was evolved with absolute positions, of which this request needs {total:,}, and "
                f"the model was trained for {window:,}. Request absolute positions to exceed that, "
                "or budget mode with cache-relative positions",
            )
        if self.policy == "full" and by_slot:
            raise Refusal(
                "document_too_long",
                f"a full cache needs {total:,} positions of the model's {window:,}; choose another policy",
            )
        if by_slot and self.budget is not None and self.budget + usual.interval > window:
            raise Refusal(
                "budget_out_of_range",
                f"{self.budget} slots and {usual.interval} new tokens exceed the model's window of {window}",
            )
        return replace(self, by_slot=by_slot)

    def larger(self) -> "Plan | None":
        """The same with twice the budget, or as much of it as fits the window; None if no more fits."""
        if self.budget is None:
            return None
        most = self.model.window - self.usual.interval if self.by_slot else 2 * self.budget
        budget = min(2 * self.budget, most)
        return replace(self, budget=budget) if budget > self.budget else None

    def memory(self, prompts: Sequence[int]) -> Memory:
        """An empty memory for the document, guided by the prompts of these indices if the reading is."""
        policy = policies.make(self.policy, self.budget, self.scorer, self.usual.mode)
        return Memory(
            self.model,
            policy,
            self.budget,
            self.usual.interval,
            self.by_slot,
            watch_last=self.usual.watch_last,
            prompts=[self.prompts[index] for index in prompts] if self.guided else (),
        )

    def record(self, usage: Usage, memory: Memory) -> None:
        """Write the settings of a memory that this plan made into the usage."""
        request, usual, scorer = self.request, self.usual, self.scorer
        usage.positions = "cache-relative" if self.by_slot else "absolute"
        usage.policy, usage.mode, usage.budget = self.policy, usual.mode, memory.budget
        usage.interval = usual.interval if memory.evicting else None
        usage.reading = "guided" if self.guided else "open"
        if scorer is None:
            return
        served = replace(
            usual,
            budget=memory.budget,
            positions=usage.positions,
            recency_clip=scorer.config.recency_clip,
        )
        mode = None if request.mode == "auto" else request.mode
        asked = regime.Settings(mode, request.budget, request.interval, request.positions, request.watch_last)
        usage.regime = regime.difference(scorer.regime, scorer.serving, served, asked)
        usage.regime_matches = usage.regime is None
