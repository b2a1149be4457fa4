"""The chat template's text around a document and a question."""

from dataclasses import dataclass
from typing import Any

from namm_runtime.errors import Refusal
from namm_runtime.model.chat_template import render
from namm_runtime.model.encoding import encode

# A template that escapes, changes the case of, shortens or reorders what it is given alters these. White
# space at the ends of a message is not in them: templates may strip it.
_ODD = "<b>&amp; \"Q\" 'q' \\n {{ x }} {% y %}\n\n  Ä"
_DOCUMENT = f"\x02document {_ODD} {'.' * 4096} {_ODD} end of document\x03"
_QUESTION = f"\x02question {_ODD} end of question\x03"
_BETWEEN = "\n\n"


@dataclass(frozen=True)
class Frame:
    """The token ids before a document, and the text around each prompt that follows it."""

    prefix: tuple[int, ...]
    before: str
    after: str
    templated: bool

    def prompt_ids(self, tokenizer: Any, prompt: str) -> list[int]:
        """Tokens of `prompt` after the document. Control tokens spelt in the prompt are treated as text."""
        if not self.templated:
            return _ids(tokenizer, self.before + prompt + self.after, control=False)
        around = [_ids(tokenizer, text, control=True) for text in (self.before, self.after)]
        return around[0] + _ids(tokenizer, prompt, control=False) + around[1]


def frame_for(tokenizer: Any) -> Frame:
    """A user turn with the document and then the question; without a chat template, plain lines.

    A template gets the message as a string, and if it does not show that, as a list of parts.

    Raises:
        Refusal: `model_unsupported` if the template fails, or does not show document and question once each,
            in this order and unaltered.
    """
    if not getattr(tokenizer, "chat_template", None):
        bos = tokenizer.bos_token_id
        return Frame(() if bos is None else (bos,), "\n", "", templated=False)
    text = f"{_DOCUMENT}{_BETWEEN}{_QUESTION}"
    faults = []
    for content in (text, [{"type": "text", "text": text}]):
        try:
            rendered = render(tokenizer, [{"role": "user", "content": content}])
        except Exception as error:  # a template may raise anything
            faults.append(f"it fails: {_words(error)}")
            continue
        fault = _fault_of(rendered)
        if fault is None:
            prefix, _, rest = rendered.partition(_DOCUMENT)
            before, _, after = rest.partition(_QUESTION)
            return Frame(tuple(_ids(tokenizer, prefix, control=True)), before, after, templated=True)
        faults.append(fault)
    raise Refusal("model_unsupported", f"the model's chat template cannot be used: {faults[0]}")


def _fault_of(rendered: str) -> str | None:
    """Why a rendered message is no place for a document and a question."""
    if not rendered.strip():
        return "it renders nothing"
    for what, text in (("document", _DOCUMENT), ("question", _QUESTION)):
        count = rendered.count(text)
        if count > 1:
            return f"it shows the {what} {count} times"
        if count == 0 and f"\x02{what}" in rendered:
            return f"it alters the text of the {what}"
        if count == 0:
            return f"it does not show the {what}"
    if rendered.index(_QUESTION) < rendered.index(_DOCUMENT):
        return "it shows the question before the document"
    if f"{_DOCUMENT}{_BETWEEN}{_QUESTION}" not in rendered:
        return "it changes what is between document and question"
    return None


def _words(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _ids(tokenizer: Any, text: str, control: bool) -> list[int]:
    return list(encode(tokenizer, text, control=control)["input_ids"])
