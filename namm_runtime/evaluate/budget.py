"""Cache budgets: a number of slots, or a share of each document."""

from dataclasses import dataclass

from namm_runtime.errors import Refusal

LEAST = 16  # slots


@dataclass(frozen=True)
class Budget:
    """`512`: slots each KV head keeps at an eviction; `25%`: the share of a document kept after reading it.

    Tokens after the last eviction are kept too. A share includes them, so that it bounds the reported
    `kept_fraction`; decision 009 says why.
    """

    label: str
    slots: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Parse slots or a percentage.

        Raises:
            Refusal: `bad_budget`.
        """
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
            f"invalid budget '{text}': give a number of slots from {LEAST} (512) or a share of each document "
            "(25%)",
        )

    def slots_for(self, tokens: int, before: int, interval: int) -> int:
        """Slots per head for a document of `tokens` tokens that follow `before` others.

        Raises:
            Refusal: `bad_budget` if the tokens after the last eviction alone exceed the share.
        """
        if self.share is None:
            return self.slots or LEAST
        waiting = (before + tokens) % interval
        slots = int(self.share * tokens - waiting) // LEAST * LEAST
        if slots < LEAST:
            raise Refusal(
                "bad_budget",
                f"{self.label} of a document of {tokens:,} tokens is less than the {waiting} tokens after "
                f"its last eviction plus {LEAST} slots; use a smaller --interval or a larger budget",
            )
        return slots
