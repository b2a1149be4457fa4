"""Where a scorer was evolved, where it serves, and how to say that the two differ."""

from dataclasses import asdict, dataclass, fields, replace

# `budget` fills a given number of slots; `parity` is the reference implementation's own keep rule.
MODES = ("budget", "parity")
POSITIONS = ("absolute", "cache-relative")


@dataclass(frozen=True)
class Regime:
    """What a scorer's parameters have seen; serving it elsewhere is allowed on request, and said."""

    mode: str = "budget"  # or "parity", the reference implementation's keep rule
    budget: int | None = None  # slots a head; in parity mode the optional cap
    interval: int = 512  # tokens between evictions
    positions: str = "cache-relative"  # or "absolute", places in the text
    recency_clip: int | None = None  # tokens; ages above it look alike
    watch_last: int | None = None  # queries before an eviction that the policy sees; None: all


@dataclass(frozen=True)
class Serving:
    """The setting a scorer was validated in, where that is not the one it was evolved in."""

    budget: int | None = None
    interval: int | None = None


@dataclass(frozen=True)
class Settings:
    """What a request says of the regime; None leaves it to the scorer."""

    mode: str | None = None
    budget: int | None = None
    interval: int | None = None
    positions: str | None = None
    watch_last: int | None = None


def default_regime(evolved: Regime, serving: Serving, mode: str) -> Regime:
    """What runs in `mode` where nothing else is asked for: the manifest's serving entry, else the regime."""
    if mode == "parity":  # the reference has no other setting than its own
        return replace(evolved, mode=mode)
    return replace(
        evolved,
        mode=mode,
        budget=serving.budget or evolved.budget,
        interval=serving.interval or evolved.interval,
    )


def difference(evolved: Regime, serving: Serving, served: Regime, asked: Settings) -> str | None:
    """A sentence on what differs and on whose word, or None where nothing does."""
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
    """Everything that a regime sets, in words."""
    return ", ".join(_words(regime, field.name) for field in fields(Regime))


def _words(regime: Regime, name: str) -> str:
    value = getattr(regime, name)
    match name:
        case "mode":
            return f"{value} mode"
        case "budget":
            return "no limit of slots" if value is None else f"{value:,} slots a head"
        case "interval":
            return f"an eviction every {value:,} tokens"
        case "positions":
            return f"{value} positions"
        case "watch_last":
            return "every query seen" if value is None else f"only the last {value:,} queries seen"
        case _:
            return "unclipped recency" if value is None else f"recency clipped at {value:,} tokens"
