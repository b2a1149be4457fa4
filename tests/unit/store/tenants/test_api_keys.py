"""API keys: what is stored, what is accepted."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from store import tenants
from store.database import Database
from store.errors import NotFound
from store.tenants import api_keys

PEPPER = b"p" * 32


def test_a_key_opens_its_tenant_and_is_stored_nowhere(db: Database, tenant: str) -> None:
    with db.session() as session:
        row, key = api_keys.create(session, tenant, "first", PEPPER)
        assert api_keys.well_formed(key)
        assert (row.prefix, row.last4) == (key[:8], key[-4:])
        found = api_keys.authenticate(session, key, PEPPER)
        assert found is not None
        assert found.tenant_id == tenant
        assert key not in str(session.execute(text("SELECT * FROM api_keys")).all())
        session.refresh(row)
        assert row.last_used_at is not None


def test_wrong_revoked_and_outdated_keys_are_refused(db: Database, tenant: str) -> None:
    with db.session() as session:
        row, key = api_keys.create(session, tenant, "first", PEPPER)
        assert api_keys.authenticate(session, key, b"q" * 32) is None
        _, old = api_keys.create(session, tenant, "old", PEPPER, datetime.now(UTC) - timedelta(seconds=1))
        assert api_keys.authenticate(session, old, PEPPER) is None
        api_keys.revoke(session, tenant, row.id)
        assert api_keys.authenticate(session, key, PEPPER) is None
        assert len(api_keys.list_keys(session, tenant)) == 2


def test_keys_of_another_tenant_cannot_be_revoked(db: Database, tenant: str) -> None:
    with db.session() as session:
        row, _ = api_keys.create(session, tenant, "first", PEPPER)
        stranger = tenants.ensure(session, "ten_other", "other")
        with pytest.raises(NotFound):
            api_keys.revoke(session, stranger, row.id)
        assert api_keys.list_keys(session, stranger) == []


@given(st.text())
def test_arbitrary_text_is_no_key(junk: str) -> None:
    assert not api_keys.well_formed(junk)
    assert not api_keys.well_formed("pal_" + junk)


@given(st.integers(0, 41), st.sampled_from(api_keys.ALPHABET))
def test_one_wrong_character_is_noticed(position: int, character: str) -> None:
    body = "pal_" + "0123456789abcdefghijABCDEFGHIJxy"
    key = body + api_keys._checksum(body)
    changed = key[:position] + character + key[position + 1 :]
    assert api_keys.well_formed(changed) == (changed == key)
