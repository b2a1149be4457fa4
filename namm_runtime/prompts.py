"""What surrounds a document and a question, according to the model's own chat template."""

from dataclasses import dataclass
from typing import Any

_DOCUMENT, _QUESTION = "\x02document\x03", "\x02question\x03"


@dataclass(frozen=True)
class Frame:
    """Token ids before the document, and text around each prompt that follows it."""

    prefix: tuple[int, ...]
    before: str
    after: str

    def prompt_ids(self, tokenizer: Any, prompt: str) -> list[int]:
        """Tokens that ask `prompt` after the document."""
        text = self.before + prompt + self.after
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def frame_for(tokenizer: Any) -> Frame:
    """A user turn that holds the document and then the question; without a chat template, plain lines."""
    if not getattr(tokenizer, "chat_template", None):
        bos = tokenizer.bos_token_id
        return Frame(() if bos is None else (bos,), "\n", "")
    turn = [{"role": "user", "content": f"{_DOCUMENT}\n\n{_QUESTION}"}]
    text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    prefix, _, rest = text.partition(_DOCUMENT)
    before, _, after = rest.partition(_QUESTION)
    return Frame(tuple(tokenizer(prefix, add_special_tokens=False)["input_ids"]), before, after)
