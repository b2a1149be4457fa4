"""A charge as a row of FOCUS 1.2, the FinOps Open Cost and Usage Specification (focus.finops.org).

What a job would have cost otherwise is in columns of our own (`x_…`), never a credit, as nobody was charged
it. If a price book prices the phases of a job differently, the unit price is an average. A bill without a
price is a charge of zero, with its time in `x_UnpricedSeconds`.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext

from api.http.tabular import Column, Value
from store.billing.charges import Charge

PROVIDER = "Palimpsest"
UNITS = {
    "device-hour": "Hours",
    "GiB-month": "GiB-Months",
    "million tokens": "1000000 Tokens",
    "attempt": "Attempts",
}
SECOND = timedelta(seconds=1)
MONEY, QUANTITY, FINE = 10, 6, 18  # decimals: two as in the bills, and one for quotients


def row(charge: Charge) -> tuple[Value, ...]:
    """The cells of `COLUMNS`."""
    return tuple(read(charge) for _, read in _COLUMNS.values())


def _cost(charge: Charge) -> Decimal:
    return charge.cost


def _unit_price(charge: Charge) -> Decimal:
    return charge.unit_price


def _whole(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def _month(moment: datetime) -> datetime:
    return _whole(moment).replace(day=1, hour=0, minute=0, second=0)


def _next_month(moment: datetime) -> datetime:
    return _month(_month(moment) + timedelta(days=32))


def _description(charge: Charge) -> str:
    bill = charge.bill
    if charge.storage:
        return "Documents stored for an hour"
    return f"Attempt {bill.attempt} of a job with {bill.model} on {bill.device_type}: {bill.outcome}"


def _sku(charge: Charge) -> str:
    if charge.storage:
        return "storage"
    return f"device:{charge.bill.device_type}"


def _details(charge: Charge) -> str | None:
    if charge.storage:
        return None
    return json.dumps({"InstanceType": charge.bill.device_type}, ensure_ascii=False)


def _consumed(charge: Charge) -> Decimal:
    bill = charge.bill
    return bill.storage_byte_seconds if charge.storage else bill.device_seconds


def _tags(charge: Charge) -> str:
    return json.dumps(charge.bill.tags, ensure_ascii=False, sort_keys=True)


def _saved(charge: Charge) -> Decimal:
    with localcontext(prec=60):
        return charge.bill.memory_saved


def _unpriced(charge: Charge) -> Decimal:
    bill = charge.bill
    return bill.device_seconds if bill.cost is None else Decimal(0)


def _text(read: Callable[[Charge], str | None]) -> tuple[Column, Callable[[Charge], Value]]:
    return Column(""), read


def _always(text: str) -> tuple[Column, Callable[[Charge], Value]]:
    return Column(""), lambda charge: text


def _time(read: Callable[[Charge], datetime]) -> tuple[Column, Callable[[Charge], Value]]:
    return Column("", datetime), read


def _number(
    read: Callable[[Charge], Decimal | None], scale: int = MONEY
) -> tuple[Column, Callable[[Charge], Value]]:
    return Column("", Decimal, scale), read


_COLUMNS: Mapping[str, tuple[Column, Callable[[Charge], Value]]] = {
    "BilledCost": _number(_cost),
    "EffectiveCost": _number(_cost),
    "ListCost": _number(_cost),
    "ContractedCost": _number(_cost),
    "BillingCurrency": _text(lambda charge: charge.bill.currency),
    "BillingAccountId": _text(lambda charge: charge.bill.tenant_id),
    "BillingAccountName": _text(lambda charge: charge.account),
    "SubAccountId": _text(lambda charge: charge.bill.project),
    "SubAccountName": _text(lambda charge: charge.bill.project),
    # FOCUS has whole seconds only, so periods are rounded outwards.
    "ChargePeriodStart": _time(lambda charge: _whole(charge.begun_at)),
    "ChargePeriodEnd": _time(lambda charge: _whole(charge.bill.booked_at) + SECOND),
    "BillingPeriodStart": _time(lambda charge: _month(charge.bill.booked_at)),
    "BillingPeriodEnd": _time(lambda charge: _next_month(charge.bill.booked_at)),
    "ChargeCategory": _always("Usage"),
    "ChargeClass": _text(lambda charge: None),  # null for all but corrections
    "ChargeDescription": _text(_description),
    "ChargeFrequency": _always("Usage-Based"),
    "ServiceName": _always(PROVIDER),
    "ServiceCategory": _always("AI and Machine Learning"),
    "ServiceSubcategory": _always("Natural Language Processing"),
    "ProviderName": _always(PROVIDER),
    "PublisherName": _always(PROVIDER),
    "InvoiceIssuerName": _always(PROVIDER),
    "ResourceId": _text(lambda charge: charge.bill.job_id),
    "ResourceType": _text(lambda charge: "Document Store" if charge.storage else "Job"),
    "SkuId": _text(_sku),
    "SkuMeter": _text(lambda charge: "Stored Documents" if charge.storage else "Device Time"),
    "SkuPriceId": _text(_sku),
    "SkuPriceDetails": _text(_details),
    "PricingCategory": _always("Standard"),
    "PricingQuantity": _number(lambda charge: charge.quantity, FINE),
    "PricingUnit": _text(lambda charge: UNITS[charge.unit]),
    "ListUnitPrice": _number(_unit_price, FINE),
    "ContractedUnitPrice": _number(_unit_price, FINE),
    "ConsumedQuantity": _number(_consumed, QUANTITY),
    "ConsumedUnit": _text(lambda charge: "B-Seconds" if charge.storage else "Seconds"),
    "Tags": _text(_tags),
    "x_FullCacheCost": _number(lambda charge: charge.bill.full_cache_cost),
    "x_RealisedSaving": _number(lambda charge: charge.bill.realised_saving),
    "x_AllocatedSaving": _number(lambda charge: charge.bill.allocated_saving),
    "x_KvByteSecondsSaved": _number(_saved, QUANTITY),
    "x_ScorerVersion": _text(lambda charge: charge.bill.scorer),
    "x_ScorerQuality": _number(lambda charge: charge.bill.scorer_quality),
    "x_WasteCost": _number(lambda charge: charge.bill.waste_cost),
    "x_UnpricedSeconds": _number(_unpriced, QUANTITY),
    "x_Attempt": _number(lambda charge: Decimal(charge.bill.attempt), 0),
    "x_Model": _text(lambda charge: charge.bill.model),
    "x_Outcome": _text(lambda charge: charge.bill.outcome),
    "x_PriceBookId": _text(lambda charge: charge.bill.price_book_id),
}
COLUMNS = tuple(column._replace(name=name) for name, (column, _) in _COLUMNS.items())
