"""The outbox: who is woken, and by which queue."""

from hypothesis import given
from hypothesis import strategies as st

from store import outbox
from store.database import Database


@given(st.text(min_size=1))
def test_queue_names_are_safe(model: str) -> None:
    assert not set(outbox.queue_of(model)) & set(", \n\x06\x16*")


def test_outbox_wakes_a_listener_after_the_commit_only(db: Database) -> None:
    with outbox.listen(db.engine) as heard:
        with db.session() as session:
            outbox.add_hint(session, "small")
            session.flush()
            assert not outbox.wait(heard, 0.2)
        assert outbox.wait(heard, 10)
        assert not outbox.wait(heard, 0.05)


def test_two_relays_take_different_hints(db: Database) -> None:
    with db.session() as session:
        for _ in range(4):
            outbox.add_hint(session, "small")
    with db.session() as one, db.session() as two:
        first, second = outbox.lock_hints(one, 2), outbox.lock_hints(two)
        assert len({hint.id for hint in [*first, *second]}) == 4
        outbox.drop(one, first)
    with db.session() as session:
        assert len(outbox.lock_hints(session)) == 2
