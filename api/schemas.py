"""Shared parts of the request and response schemas. Unknown fields are rejected; every number has bounds."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

from api.http.tabular import plain

MAX_DEADLINE = timedelta(days=30)
MAX_PROMPT_CHARACTERS = 32_768
MAX_METADATA = 16
RESERVED = frozenset(
    {"collection_id", "schedule_id"}
)  # set by the service: reports group by them, and scorers are activated by schedule
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2999, 12, 31, tzinfo=UTC)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("nul_character", "The character U+0000 is not allowed")
    return text


def _prompt(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "The text is only white space")
    return text


def _free(metadata: dict[str, str]) -> dict[str, str]:
    if RESERVED & metadata.keys():
        names = " and ".join(f"'{name}'" for name in sorted(RESERVED))
        raise PydanticCustomError(
            "reserved_metadata", "{names} are set by the service and cannot be given", {"names": names}
        )
    return metadata


def _rfc3339(text: str, kind: str) -> datetime:
    if not _RFC3339.fullmatch(text):
        raise PydanticCustomError(
            f"{kind}_format",
            "Not an RFC 3339 time with an offset, such as 2027-01-31T18:00:00Z",
        )
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError(f"{kind}_format", "There is no such date or time") from None


def _time(value: Any) -> datetime:
    """An RFC 3339 time within years for which every time zone is well defined."""
    moment = _rfc3339(value if isinstance(value, str) else "", "time")
    if not EARLIEST <= moment <= LATEST:
        raise PydanticCustomError("time_range", "A time must be between the years 1970 and 2999")
    return moment


def _moment(value: Any) -> datetime:
    """A deadline in RFC 3339, or a number of seconds from now."""
    now = datetime.now(UTC)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise PydanticCustomError(
            "deadline_type", "A deadline must be an RFC 3339 time or a number of seconds from now"
        )
    if isinstance(value, str):
        moment = _rfc3339(value, "deadline")
    elif 0 < value <= MAX_DEADLINE.total_seconds():
        moment = now + timedelta(seconds=value)
    else:
        raise PydanticCustomError("deadline_range", "A deadline must be between now and 30 days from now")
    if not now < moment <= now + MAX_DEADLINE:
        raise PydanticCustomError("deadline_range", "A deadline must be between now and 30 days from now")
    return moment


Text = Annotated[str, AfterValidator(_no_nul)]
Prompt = Annotated[Text, StringConstraints(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_prompt)]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]
MetadataKey = Annotated[Text, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[Text, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], AfterValidator(_free)]
_Seconds = Annotated[float, Field(gt=0, le=MAX_DEADLINE.total_seconds())]
_Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Time = Annotated[datetime, BeforeValidator(_time, json_schema_input_type=_Time)]
Deadline = Annotated[datetime, BeforeValidator(_moment, json_schema_input_type=_Time | _Seconds)]


class RequestModel(BaseModel):
    """Base class of all request bodies."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, str_max_length=8 * 1024 * 1024)


TEMPLATE_NAME = r"[a-z0-9][a-z0-9-]{0,49}"
TemplateName = Annotated[str, StringConstraints(pattern=rf"^{TEMPLATE_NAME}(@[1-9][0-9]{{0,5}})?$")]


DocumentId = Annotated[str, StringConstraints(pattern=r"^doc_[0-9a-z]{1,40}$")]


Number = Annotated[Decimal, PlainSerializer(plain, return_type=str)]  # never with an exponent


class ResponseModel(BaseModel):
    """Base class of all responses."""

    model_config = ConfigDict(from_attributes=True)


class Page(ResponseModel):
    """One page of a list."""

    has_more: bool
    next_cursor: str | None = Field(description="Pass it as `cursor` to get the next page.")


class ErrorOut(ResponseModel):
    """Why a job did not succeed."""

    code: str = Field(examples=["document_too_long"])
    message: str
