"""Render a chat template so that the result does not depend on the day."""

from datetime import datetime
from typing import Any

from transformers.utils.chat_template_utils import _compile_jinja_template

# The date that Llama 3's own template falls back to. With the day's date, a snapshot could not be continued
# after midnight, and the same request would not give the same answer.
DATE = datetime(2024, 7, 26)


def render(tokenizer: Any, messages: list[dict[str, Any]]) -> str:
    """The text of a chat, ready for the model's answer.

    As `tokenizer.apply_chat_template` does it, except for the date in templates that print the current one.

    Raises:
        Exception: whatever the template raises; ValueError if there are several and none is the default.
    """
    template = _compile_jinja_template(tokenizer.get_chat_template())
    values = {**tokenizer.special_tokens_map, "date_string": DATE.strftime("%d %b %Y")}
    rendered: str = template.render(
        messages=messages,
        tools=None,
        documents=None,
        add_generation_prompt=True,
        strftime_now=DATE.strftime,
        **values,
    )
    return rendered
