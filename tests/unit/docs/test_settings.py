"""docs/reference/settings.md is what `python -m store.settings_reference` prints."""

from store.settings import Settings
from store.settings_reference import page
from tests.support import REPOSITORY

PAGE = REPOSITORY / "docs" / "reference" / "settings.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run `python -m store.settings_reference > docs/reference/settings.md`"


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
