"""API keys: `pal_` + 32 random characters + a checksum of 6. Only an HMAC of a key is stored."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
import zlib
from datetime import datetime

from sqlalchemy import func, or_, select, text, update
from sqlalchemy.orm import Session

from store.ids import new_id
from store.tables.tenants import ApiKey
from store.tenancy import get_scoped, scoped

PREFIX = "pal_"
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM_CHARACTERS = 32  # 190 bits
CHECKSUM_CHARACTERS = 6  # 62^6 > 2^32


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    characters = []
    for _ in range(CHECKSUM_CHARACTERS):
        number, digit = divmod(number, 62)
        characters.append(ALPHABET[digit])
    return "".join(reversed(characters))


def well_formed(key: str) -> bool:
    """Whether a key's checksum is right, which detects a mistyped key without the database."""
    body, checksum = key[:-CHECKSUM_CHARACTERS], key[-CHECKSUM_CHARACTERS:]
    right_length = len(key) == len(PREFIX) + RANDOM_CHARACTERS + CHECKSUM_CHARACTERS
    return right_length and key.isascii() and key.startswith(PREFIX) and _checksum(body) == checksum


def _digest(key: str, pepper: bytes) -> str:
    return hmac.new(pepper, key.encode(), hashlib.sha256).hexdigest()


def create(
    session: Session,
    tenant_id: str,
    name: str,
    pepper: bytes,
    expires_at: datetime | None = None,
    project: str = "default",
    *,
    admin: bool = False,
) -> tuple[ApiKey, str]:
    """Creates a key; its jobs are billed to `project`. An admin key may change scorers for all tenants.

    The second value is the key itself, which is shown once and cannot be recovered.
    """
    body = PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_CHARACTERS))
    key = body + _checksum(body)
    row = ApiKey(
        id=new_id("key"),
        tenant_id=tenant_id,
        name=name,
        project=project,
        admin=admin,
        prefix=key[: len(PREFIX) + 4],
        last4=key[-4:],
        digest=_digest(key, pepper),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return row, key


def authenticate(session: Session, key: str, pepper: bytes) -> ApiKey | None:
    """The row of a valid key, else None. Records the use, at most once a minute."""
    if not well_formed(key):
        return None
    # This query finds the tenant, so it cannot be scoped. Looking up a keyed digest by index reveals nothing
    # about other digests, so no constant-time comparison is needed.
    alive = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now())
    query = select(ApiKey).where(ApiKey.digest == _digest(key, pepper), ApiKey.revoked_at.is_(None), alive)
    row = session.scalars(query).one_or_none()
    if row is not None:
        stale = func.now() - text("interval '1 minute'")
        used = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < stale)
        session.execute(update(ApiKey).where(ApiKey.id == row.id, used).values(last_used_at=func.now()))
    return row


def list_keys(session: Session, tenant_id: str) -> list[ApiKey]:
    """The tenant's keys, newest first, revoked ones too."""
    return list(session.scalars(scoped(ApiKey, tenant_id).order_by(ApiKey.id.desc())))


def revoke(session: Session, tenant_id: str, key_id: str) -> ApiKey:
    """Revokes a key at once; idempotent. Raises NotFound."""
    row = get_scoped(session, ApiKey, tenant_id, id=key_id)
    if row.revoked_at is None:
        session.execute(update(ApiKey).where(ApiKey.id == row.id).values(revoked_at=func.now()))
        session.refresh(row)
    return row
