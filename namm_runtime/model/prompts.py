"""The chat template's text around a document and a question."""

from dataclasses import dataclass
from typing import Any

from namm_runtime.model.encoding import encode

_DOCUMENT, _QUESTION = "\x02document\x03", "\x02question\x03"


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
    """A user turn with the document and then the question; without a chat template, plain lines."""
    if not getattr(tokenizer, "chat_template", None):
        bos = tokenizer.bos_token_id
        return Frame(() if bos is None else (bos,), "\n", "", templated=False)
    turn = [{"role": "user", "content": f"{_DOCUMENT}\n\n{_QUESTION}"}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    prefix, _, rest = text.partition(_DOCUMENT)
    before, _, after = rest.partition(_QUESTION)
    return Frame(tuple(_ids(tokenizer, prefix, control=True)), before, after, templated=True)


def _ids(tokenizer: Any, text: str, control: bool) -> list[int]:
    return list(encode(tokenizer, text, control=control)["input_ids"])
