"""The keys that a service makes for its owner when it starts."""

from pathlib import Path

from sqlalchemy import text

from palimpsest.machine.access import prepare
from store.database import Database
from store.settings import Settings
from store.tenants import api_keys


def test_the_first_key_and_the_command_lines_are_an_admins(database_url: str, tmp_path: Path) -> None:
    settings = Settings.model_validate({"DATABASE_URL": database_url, "data_dir": tmp_path})
    made = prepare(settings, tmp_path)
    assert made.first_key is not None
    database = Database(database_url)
    with database.session() as session:
        for key in (made.first_key, made.cli_key):
            row = api_keys.authenticate(session, key, settings.pepper)
            assert row is not None
            assert row.admin
        # As they were before there were admins.
        session.execute(text("UPDATE api_keys SET admin = false"))
    again = prepare(settings, tmp_path)
    assert (again.cli_key, again.first_key) == (made.cli_key, None)
    with database.session() as session:
        admins = [row.name for row in api_keys.list_keys(session, "ten_default") if row.admin]
    database.close()
    assert admins == ["command line"], "whose key it is cannot be known of any other"
