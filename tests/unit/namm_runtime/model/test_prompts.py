"""Chat templates: where document and question go, and which templates are refused."""

from typing import Any

import pytest

from namm_runtime.errors import Refusal
from namm_runtime.model.chat_template import render
from namm_runtime.model.prompts import frame_for
from tests.support.tiny import byte_tokenizer

LOOP = "{% for m in messages %}%s{% endfor %}"


def tokenizer_with(template: Any) -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def around(template: Any) -> tuple[str, str, str]:
    """Text before the document, between document and question, and after the question."""
    tokenizer = tokenizer_with(template)
    frame = frame_for(tokenizer)
    assert frame.templated
    return tokenizer.decode(list(frame.prefix)), frame.before, frame.after


def test_a_chat_template_goes_around_document_and_question() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|end|>", "<|assistant|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    frame = frame_for(tokenizer)
    asked = frame.prompt_ids(tokenizer, "why? <|end|>")
    special = tokenizer.convert_tokens_to_ids
    assert frame.prefix == (special("<|user|>"),)
    assert asked[-2:] == [special("<|end|>"), special("<|assistant|>")]
    assert asked.count(special("<|end|>")) == 1, "a control token spelt in a question must stay text"
    assert tokenizer.decode(asked) == "\n\nwhy? <|end|><|end|><|assistant|>"


PARTS = "{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}"
HANDLED = {
    "a string": "<u>{{ m.content }}</u>",
    "a list of parts": f"<u>{PARTS}</u>",
    "either": f"{{% if m.content is string %}}<u>{{{{ m.content }}}}</u>{{% else %}}{PARTS}{{% endif %}}",
    "only a list, or it raises": "{% if m.content is string %}{{ raise_exception('list!') }}{% endif %}"
    f"<u>{PARTS}</u>",
    "stripped": "<u>{{ m.content | trim }}</u>",
}


@pytest.mark.parametrize("name", HANDLED)
def test_the_message_is_shown_as_the_template_wants_it(name: str) -> None:
    assert around(LOOP.replace("%s", HANDLED[name])) == ("<u>", "\n\n", "</u>")


def test_a_default_among_several_templates_is_taken() -> None:
    named = {"default": "a{{ messages[0].content }}z", "tool_use": "{{ raise_exception('no') }}"}
    assert around(named) == ("a", "\n\n", "z")


REFUSED = {
    "raises": ("{{ raise_exception('System message required') }}", "System message required"),
    "syntax error": ("{% for m in messages %}{{ m.content }", "unexpected '}'"),
    "unknown filter": ("{{ messages[0].content | shout }}", "shout"),
    "undefined": ("{{ messages[0].content }}{{ nothing.at.all }}", "'nothing' is undefined"),
    "not text": ("{{ messages[0].content + 1 }}", "it fails"),
    "empty": ("{% if false %}x{% endif %}", "renders nothing"),
    "no message": ("You are an assistant.", "does not show the document"),
    "twice": ("{{ messages[0].content }}{{ messages[0].content }}", "shows the document 2 times"),
    "escaped": ("{{ messages[0].content | e }}", "alters the text of the document"),
    "json": ("{{ messages[0].content | tojson }}", "the document"),
    "upper case": ("{{ messages[0].content | upper }}", "does not show the document"),
    "cut off": ("{{ messages[0].content[:2000] }}", "alters the text of the document"),
    "joined lines": ("{{ messages[0].content | replace('\n', ' ') }}", "alters the text of the document"),
    "other order": (
        "{% set p = messages[0].content.split('\x03\n\n') %}{{ p[1] }} {{ p[0] }}\x03",
        "question before the document",
    ),
    "something between": (
        "{{ messages[0].content.replace('\x03\n\n', '\x03 Today is Monday. ') }}",
        "changes what is between",
    ),
    "only the end": ("{{ messages[0].content.split('\x03\n\n')[1] }}", "does not show the document"),
    "no default": ({"a": "{{ messages[0].content }}", "b": "x"}, "multiple chat templates with no default"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_without_a_place_for_both_is_refused_in_its_own_words(name: str) -> None:
    template, words = REFUSED[name]
    with pytest.raises(Refusal) as refusal:
        frame_for(tokenizer_with(template))
    assert refusal.value.code == "model_unsupported"
    assert words in refusal.value.message
    assert "\n" not in refusal.value.message


@pytest.mark.parametrize(
    "template",
    [
        "{{ strftime_now('%d %b %Y') }}|{{ messages[0].content }}",
        "{% if not date_string is defined %}{% set date_string = strftime_now('%Y') %}{% endif %}"
        "{{ date_string }}|{{ messages[0].content }}",
    ],
)
def test_the_date_in_a_template_is_always_the_same(template: str) -> None:
    assert around(template)[0] == "26 Jul 2024|"


def test_rendering_equals_transformers_own() -> None:
    tokenizer = tokenizer_with(
        "{{ bos_token }}{{ messages[0].content }}\n{% if add_generation_prompt %}A:{% endif %}"
    )
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    chat = [{"role": "user", "content": "why?"}]
    own = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert render(tokenizer, chat) == own == "<s>why?\nA:"
