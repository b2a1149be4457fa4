"""Tables of what was measured on real text beside the score of the planted facts."""

from namm_runtime.evaluate.estimates import Row
from namm_runtime.evaluate.formatting import label, percent


def real_tables(rows: list[Row]) -> list[str]:
    """Losses and replies, generated answers, and evicted attention; none if the suite is not of real text."""
    rows = [row for row in rows if "real" in row]
    if not rows:
        return []
    return [part for part in (_losses(rows), _generated(rows), _risks(rows)) if part]


def _losses(rows: list[Row]) -> str:
    lines = [
        "| policy | budget | NLL of facts | continuation | less full | not found | invented | wrongly |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        real = row["real"]
        cells = [
            label(row),
            row["budget"] or "all",
            _nats(real["nll"], real["nll_interval"]),
            _nats(real["continuation"], real["continuation_interval"]),
            _nats(real["continuation_less_full"], real["continuation_less_full_interval"], sign=True),
            *(
                percent(real[name], real[f"{name}_interval"])
                for name in ("not_found", "invented", "not_found_wrongly")
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return (
        "The score is the share of planted facts of which every token was the likeliest, with the fact's "
        "sentence given up to there. NLL: nats per fact. Continuation: nats per token of the text that goes "
        "on after the document. Not found, invented: replies to questions that the document does not answer; "
        "wrongly: replies of not found to those it does.\n\n" + "\n".join(lines)
    )


def _generated(rows: list[Row]) -> str:
    tasks = [task for task, part in rows[0]["real"]["generated"].items() if part["questions"]]
    if not tasks:
        return ""
    sizes = [f"{max(row['real']['generated'][task]['questions'] for row in rows)}" for task in tasks]
    lines = [
        f"| policy | budget | {' | '.join(tasks)} |",
        f"|---|---|{'---|' * len(tasks)}",
        f"| questions | | {' | '.join(sizes)} |",
    ]
    for row in rows:
        parts = [row["real"]["generated"][task] for task in tasks]
        cells = [percent(part["score"], part["score_interval"]) for part in parts]
        lines.append(f"| {label(row)} | {row['budget'] or 'all'} | {' | '.join(cells)} |")
    return "Generated answers that hold the right one, by task:\n\n" + "\n".join(lines)


def _risks(rows: list[Row]) -> str:
    lines = ["| policy | budget | forced answers | generated answers |", "|---|---|---|---|"]
    known = False
    for row in rows:
        risks = row["real"]["evicted_attention"]
        known = known or any(risks.values())
        cells = [_auroc(risks[name]) for name in ("forced", "generated")]
        lines.append(f"| {label(row)} | {row['budget'] or 'all'} | {' | '.join(cells)} |")
    if not known:
        return ""
    return (
        "How well the share of a prompt's attention that fell on evicted tokens tells wrong answers from "
        "right ones (area under the ROC curve; 0.5 is chance):\n\n" + "\n".join(lines)
    )


def _nats(value: float | None, interval: list[float] | None, sign: bool = False) -> str:
    if value is None:
        return "–"
    form = "+.3f" if sign else ".3f"
    bounds = f" [{interval[0]:{form}}, {interval[1]:{form}}]" if interval else ""
    return f"{value:{form}}{bounds}"


def _auroc(risk: Row | None) -> str:
    if risk is None:
        return "–"
    bounds = f" [{risk['interval'][0]:.2f}, {risk['interval'][1]:.2f}]" if risk["interval"] else ""
    return f"{risk['auroc']:.2f}{bounds}, {risk['wrong']} wrong of {risk['wrong'] + risk['right']}"
