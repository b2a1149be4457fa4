"""Content negotiation with the Accept header (RFC 9110, 12.5.1)."""

from collections.abc import Sequence

from starlette.requests import Request

from api.problems import Problem

JSON = "application/json"
CSV = "text/csv"
NDJSON = "application/x-ndjson"
PARQUET = "application/vnd.apache.parquet"


def chosen(request: Request, offers: Sequence[str]) -> str:
    """The media type that the client prefers; of equally preferred ones the first.

    Raises Problem 406 if it accepts none of them.
    """
    accept = ",".join(request.headers.getlist("accept")) or "*/*"
    ranges = [_range(part) for part in accept.split(",") if part.strip()]
    qualities = {offer: _quality(offer, ranges) for offer in offers}
    best = max(offers, key=lambda offer: qualities[offer])
    if qualities[best] <= 0:
        available = ", ".join(offers)
        raise Problem(406, "not_acceptable", f"The response is available as {available}.", field="Accept")
    return best


def _range(text: str) -> tuple[str, float]:
    media_type, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media_type, float(value)
            except ValueError:
                return media_type, 0.0
    return media_type, 1.0


def _quality(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The quality from the most specific media range (RFC 9110, 12.5.1)."""
    for form in (offer, offer.partition("/")[0] + "/*", "*/*"):
        found = [quality for media_type, quality in ranges if media_type == form]
        if found:
            return max(found)
    return 0.0
