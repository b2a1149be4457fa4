"""Webhooks: URLs that receive events, and the log of deliveries."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.context import CallerDep, ContextDep
from api.http.cursors import Cursor, Limit, Pager
from api.problems import documented
from api.webhooks.schemas import (
    AttemptOut,
    DeliveryOut,
    DeliveryPage,
    DeliveryState,
    WebhookCreate,
    WebhookList,
    WebhookOut,
    WebhookWithSecret,
)
from store import webhooks
from store.tables.webhooks import Delivery, Webhook

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])


def _with_secret(row: Webhook, pepper: bytes) -> WebhookWithSecret:
    shown = WebhookOut.model_validate(row).model_dump()
    return WebhookWithSecret(**shown, secret=webhooks.secret(pepper, row.id, row.generation))


def _delivery_out(row: Delivery) -> DeliveryOut:
    return DeliveryOut(
        id=row.id,
        webhook_id=row.webhook_id,
        message_id=row.message_id,
        event_type=row.event_type,
        payload=row.payload,
        state=row.state,  # type: ignore[arg-type]
        attempts=row.attempts,
        next_attempt_at=row.next_at if row.state == "pending" else None,
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=row.created_at,
        delivered_at=row.delivered_at,
        log=[AttemptOut.model_validate(entry) for entry in row.log],
    )


@router.post("", status_code=201, responses=documented(400, 401, 409, 422))
def create(
    body: WebhookCreate, request: Request, response: Response, context: ContextDep, caller: CallerDep
) -> WebhookWithSecret:
    """Create a webhook. Only this response shows its secret."""
    with context.database.session() as session:
        row = webhooks.create(
            session,
            caller.tenant_id,
            body.url,
            description=body.description,
            chosen=body.events,
            allow_loopback=context.settings.webhook_allow_loopback,
        )
        response.headers["location"] = request.url_for("show_webhook", webhook_id=row.id).path
        return _with_secret(row, context.settings.pepper)


@router.get("", responses=documented(401))
def index(context: ContextDep, caller: CallerDep) -> WebhookList:
    """List your webhooks, newest first."""
    with context.database.session() as session:
        rows = webhooks.list_webhooks(session, caller.tenant_id)
        return WebhookList(data=[WebhookOut.model_validate(row) for row in rows])


@router.get("/{webhook_id}", name="show_webhook", responses=documented(401, 404))
def show(webhook_id: str, context: ContextDep, caller: CallerDep) -> WebhookOut:
    """Get a webhook and, if it is disabled, the reason."""
    with context.database.session() as session:
        return WebhookOut.model_validate(webhooks.get(session, caller.tenant_id, webhook_id))


@router.delete("/{webhook_id}", status_code=204, responses=documented(401, 404))
def delete(webhook_id: str, context: ContextDep, caller: CallerDep) -> None:
    """Delete a webhook with its log. Pending messages are dropped."""
    with context.database.session() as session:
        webhooks.remove(session, caller.tenant_id, webhook_id)


@router.post("/{webhook_id}/rotate", responses=documented(401, 404))
def rotate(webhook_id: str, context: ContextDep, caller: CallerDep) -> WebhookWithSecret:
    """Rotate the secret. For a day, messages carry both signatures, so that receivers can switch."""
    with context.database.session() as session:
        row = webhooks.rotate(session, caller.tenant_id, webhook_id)
        return _with_secret(row, context.settings.pepper)


@router.post("/{webhook_id}/enable", responses=documented(401, 404))
def enable(webhook_id: str, context: ContextDep, caller: CallerDep) -> WebhookOut:
    """Enable a disabled webhook; messages that waited are sent first. Idempotent."""
    with context.database.session() as session:
        return WebhookOut.model_validate(webhooks.enable(session, caller.tenant_id, webhook_id))


@router.post("/{webhook_id}/test", status_code=202, responses=documented(401, 404, 409))
def send_test(webhook_id: str, context: ContextDep, caller: CallerDep) -> DeliveryOut:
    """Send the event `webhook.test`; its deliveries show the outcome."""
    with context.database.session() as session:
        return _delivery_out(webhooks.send_test(session, caller.tenant_id, webhook_id))


@router.get("/{webhook_id}/deliveries", responses=documented(401, 404, 422))
def deliveries(
    webhook_id: str,
    context: ContextDep,
    caller: CallerDep,
    state: Annotated[list[DeliveryState] | None, Query(description="May be repeated.", max_length=3)] = None,
    cursor: Cursor = None,
    limit: Limit = 20,
) -> DeliveryPage:
    """List the deliveries to a webhook, newest first. They are kept for 30 days."""
    states = sorted(set(state or ()))
    pager = Pager(context.settings.pepper, f"deliveries {caller.tenant_id} {webhook_id} {states}")
    with context.database.session() as session:
        rows = webhooks.list_deliveries(
            session,
            caller.tenant_id,
            webhook_id,
            states=states,
            before=pager.key(cursor),
            limit=limit + 1,
        )
    page, after = pager.cut(rows, limit, lambda row: [row.id])
    return DeliveryPage(
        data=[_delivery_out(row) for row in page], has_more=after is not None, next_cursor=after
    )


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver", status_code=202, responses=documented(401, 404, 409)
)
def redeliver(webhook_id: str, delivery_id: str, context: ContextDep, caller: CallerDep) -> DeliveryOut:
    """Send a message again now, with the same message id."""
    with context.database.session() as session:
        return _delivery_out(webhooks.redeliver(session, caller.tenant_id, webhook_id, delivery_id))
