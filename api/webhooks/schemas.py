"""Webhooks in requests and responses."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from api.schemas import Page, RequestModel, ResponseModel, Text

DeliveryState = Literal["pending", "delivered", "failed"]


class WebhookCreate(RequestModel):
    """A URL that should receive events."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"url": "https://example.com/palimpsest", "events": ["job.*", "budget.crossed"]}]
        }
    )

    url: Annotated[Text, StringConstraints(min_length=1, max_length=2000)] = Field(
        description="https, with a host on the public internet."
    )
    events: list[Annotated[Text, StringConstraints(min_length=1, max_length=100)]] = Field(
        default_factory=list,
        max_length=50,
        description="Types such as `job.succeeded` or families such as `job.*`. Default: all.",
    )
    description: Annotated[Text, StringConstraints(max_length=500)] = ""


class WebhookOut(ResponseModel):
    """A webhook. Its secret is shown only when it is created or rotated."""

    id: str = Field(examples=["whk_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    url: str
    events: list[str] = Field(description="Empty means all.")
    description: str
    created_at: datetime
    rotated_at: datetime | None
    failing_since: datetime | None = Field(description="The first failure after the last success.")
    disabled_at: datetime | None = Field(description="Nothing is sent until it is enabled again.")
    disabled_reason: str | None


class WebhookWithSecret(WebhookOut):
    """A webhook with the secret that its messages are signed with."""

    secret: str = Field(examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"])


class WebhookList(ResponseModel):
    """Your webhooks, newest first."""

    data: list[WebhookOut]


class AttemptOut(ResponseModel):
    """One attempt to deliver a message."""

    at: datetime
    status: int | None = Field(description="The HTTP status; null without a response.")
    error: str | None = Field(description="Null if it was delivered.")
    ms: int


class DeliveryOut(ResponseModel):
    """A message to a webhook and its delivery."""

    id: str = Field(examples=["dlv_06f3k2v5r8c4x1m7d9a0b2e6g8"])
    webhook_id: str
    message_id: str = Field(description="The header `webhook-id`, the same in every attempt.")
    event_type: str = Field(examples=["job.succeeded"])
    payload: dict[str, Any]
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime | None = Field(description="Null unless it is pending.")
    last_status: int | None
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None
    log: list[AttemptOut] = Field(description="The attempts, oldest first; the last 50 are kept.")


class DeliveryPage(Page):
    """A page of deliveries, newest first."""

    data: list[DeliveryOut]
