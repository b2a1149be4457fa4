"""Thread-safe tokenisation.

Whether control tokens spelt in a text are recognised is not an argument of the underlying tokenizer but
state, which transformers sets just before encoding. Without a lock one thread could set it for another, and
text in a document could be mistaken for control tokens of the chat template.
"""

from threading import Lock
from typing import Any

_turn = Lock()


def encode(tokenizer: Any, text: str, *, control: bool = False, **wanted: bool) -> Any:
    """Tokenise a text without adding special tokens.

    Args:
        control: recognise control tokens spelt in the text; otherwise they are treated as text.
        wanted: further outputs, such as `return_offsets_mapping`.
    """
    with _turn:
        return tokenizer(
            text, add_special_tokens=False, split_special_tokens=not control, verbose=False, **wanted
        )
