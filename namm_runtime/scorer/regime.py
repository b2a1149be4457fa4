"""The settings a scorer was evolved in, those it serves in, and a description of their differences."""

from dataclasses import asdict, dataclass, fields, replace

# `budget` fills a given number of slots; `parity` is the reference implementation's own keep rule.
MODES = ("budget", "parity")
POSITIONS = ("absolute", "cache-relative")


@dataclass(frozen=True)
class Regime:
    """The settings a scorer was evolved in. Serving it in others is allowed, and reported in the usage."""

    mode: str = "budget"  # or "parity", the reference implementation's keep rule
    budget: int | None = None  # slots per head; in parity mode the optional cap
    interval: int = 512  # tokens between evictions
    positions: str = "cache-relative"  # or "absolute", positions in the text
    recency_clip: int | None = None  # tokens; larger ages are clipped to it
    watch_last: int | None = None  # queries before an eviction that the policy observes; None: all


@dataclass(frozen=True)
class Serving:
    """The settings a scorer was validated in, if they differ from those it was evolved in."""

    budget: int | None = None
    interval: int | None = None


@dataclass(frozen=True)
class Settings:
    """The settings that a request names; None leaves one to the scorer."""

    mode: str | None = None
    budget: int | None = None
    interval: int | None = None
    positions: str | None = None
    watch_last: int | None = None


def default_regime(evolved: Regime, serving: Serving, mode: str) -> Regime:
    """The regime used in `mode` by default: the manifest's serving settings, else the scorer's regime."""
    if mode == "parity":  # parity only makes sense in the scorer's own regime
        return replace(evolved, mode=mode)
    return replace(
        evolved,
        mode=mode,
        budget=serving.budget or evolved.budget,
        interval=serving.interval or evolved.interval,
    )


def difference(evolved: Regime, serving: Serving, served: Regime, asked: Settings) -> str | None:
    """A sentence that says which settings differ and why, or None if none does."""
    names = [
        field.name for field in fields(Regime) if getattr(evolved, field.name) != getattr(served, field.name)
    ]
    if not names:
        return None
    by_request = {name for name, value in asdict(asked).items() if value is not None}
    by_manifest = {name for name, value in asdict(serving).items() if value is not None} | {"recency_clip"}

    def whose_word(name: str) -> str:
        if name in by_request:
            return "on request"
        return "by its manifest" if name in by_manifest else "by default"

    served_in = [f"{_words(served, name)} ({whose_word(name)})" for name in names]
    evolved_in = [_words(evolved, name) for name in names]
    return f"The scorer was evolved with {' and '.join(evolved_in)}; served with {' and '.join(served_in)}."


def describe(regime: Regime) -> str:
    """All settings of a regime in words."""
    return ", ".join(_words(regime, field.name) for field in fields(Regime))


def _words(regime: Regime, name: str) -> str:
    value = getattr(regime, name)
    match name:
        case "mode":
            return f"{value} mode"
        case "budget":
            return "no limit on slots" if value is None else f"{value:,} slots per head"
        case "interval":
            return f"an eviction every {value:,} tokens"
        case "positions":
            return f"{value} positions"
        case "watch_last":
            return "every query observed" if value is None else f"only the last {value:,} queries observed"
        case _:
            return "unclipped recency" if value is None else f"recency clipped at {value:,} tokens"
