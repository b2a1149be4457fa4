"""How much of a document may be kept: a number of slots, or a share of the document."""

from dataclasses import dataclass

from namm_runtime.errors import Refusal

LEAST = 16  # slots


@dataclass(frozen=True)
class Budget:
    """`512` is slots a KV head keeps at an eviction; `25%` the share of a document kept once it is read.

    Tokens that came after the last eviction are kept too. A share includes them, so that it bounds what the
    field `kept_fraction` reports; decision 009 says why.
    """

    label: str
    slots: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Raises Refusal `bad_budget`."""
        text = text.strip()
        try:
            if text.endswith("%"):
                share = float(text[:-1]) / 100
                if 0 < share <= 1:
                    return cls(f"{share * 100:g}%", share=share)
            elif int(text) >= LEAST:
                return cls(str(int(text)), slots=int(text))
        except ValueError:
            pass
        raise Refusal(
            "bad_budget",
            f"'{text}' is no budget: give slots from {LEAST} up (512) or a share of each document (25%)",
        )

    def slots_for(self, tokens: int, before: int, interval: int) -> int:
        """Slots a head for a document of `tokens` tokens after `before` others, a multiple of 16 for a share.

        Raises:
            Refusal: `bad_budget` where what waits for an eviction at the end already fills the share.
        """
        if self.share is None:
            return self.slots or LEAST
        waiting = (before + tokens) % interval
        slots = int(self.share * tokens - waiting) // LEAST * LEAST
        if slots < LEAST:
            raise Refusal(
                "bad_budget",
                f"{self.label} of a document of {tokens:,} tokens is less than the {waiting} that wait at "
                f"its end for an eviction and {LEAST} slots; take a smaller --interval or a larger budget",
            )
        return slots
