"""A request to the engine: a document, prompts, and how to read it."""

from dataclasses import dataclass
from pathlib import Path

from namm_runtime.errors import Refusal
from namm_runtime.scorer import checkpoint, regime

DEFAULT_BUDGET = 512
POSITIONS = ("auto", *regime.POSITIONS)
READINGS = ("guided", "open")
ON_RISK = ("report", "reread")


@dataclass(frozen=True)
class Request:
    """A document and the prompts to answer about it.

    Attributes:
        document: a UTF-8 file.
        prompts: each is answered from its own fork of the document's memory.
        policy: a name from `policies.names()`; None is the default of the model, `policies.default_for`.
        scorer: a scorer, or the directory of its checkpoint; None uses the bundled scorer of the policy.
        budget: slots each KV head keeps.
        interval: tokens between evictions, a multiple of 16.
        watch_last: the policy observes only this many queries before each eviction, a multiple of 16.
        mode: `budget` or `parity`; `auto` is the mode that the scorer was evolved in.
        positions: `absolute` rotates by position in the text, `cache-relative` by slot; `auto` uses absolute
            positions if document and answers fit the model's window, else cache-relative ones.
        max_document_tokens: longer documents are refused before they are read.
        reading: `guided` lets the prompts choose most of what is kept, `open` reads as if they were not known
            yet; None is guided wherever that has an effect.
        on_risk: `reread` reads the document again, once and with twice the budget, for answers that are at
            risk (see `Answer`); `report` only says so.

    If `budget`, `interval`, `watch_last` or `positions` is None, the scorer decides: its manifest's serving
    setting, else the one it was evolved in. Without a scorer the defaults are 512, 512, all and `auto`.
    """

    document: Path
    prompts: tuple[str, ...]
    policy: str | None = None
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

    def check(self) -> None:
        """Check what can be checked without a model.

        Raises:
            Refusal: `bad_request` or `budget_out_of_range`.
        """
        for name, value, known in (
            ("positions", self.positions, POSITIONS),
            ("reading", self.reading, READINGS),
            ("on_risk", self.on_risk, ON_RISK),
        ):
            if value not in (None, *known):
                raise Refusal("bad_request", f"{name} must be one of {', '.join(known)}, not '{value}'")
        if self.budget is not None and self.budget < 16:
            raise Refusal(
                "budget_out_of_range", f"a budget of {self.budget} slots is too small; the minimum is 16"
            )
