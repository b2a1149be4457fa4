"""Figures as they are shown in Markdown tables."""

from namm_runtime.evaluate.estimates import Row


def label(row: Row) -> str:
    """A row's policy, and how it read unless that was open."""
    policy: str = row["policy"]
    reading = row.get("reading", "open")  # reports of earlier versions have none
    return policy if reading == "open" else f"{policy}, {reading}"


def percent(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" + (f" [{interval[0] * 100:.1f}, {interval[1] * 100:.1f}]" if interval else "")


def counted(row: Row) -> str:
    return f"{row['questions']:,} ({row['documents']:,})"


def points(difference: Row | None) -> str:
    if difference is None:
        return "–"
    value = f"{difference['value'] * 100:+.1f}"
    if difference["interval"] is None:
        return value
    low, high = difference["interval"]
    shown = f"{value} [{low * 100:+.1f}, {high * 100:+.1f}]"
    return f"**{shown}**" if low > 0 or high < 0 else shown
