"""Text into tokens, by one thread at a time.

Whether a spelt control token counts as one is not an argument of the tokenizer behind transformers but a
state, which transformers sets just before it encodes. Of two threads one would set it for the other: a
document could then pass off its text as the chat template's.
"""

from threading import Lock
from typing import Any

_turn = Lock()


def encode(tokenizer: Any, text: str, *, control: bool = False, **wanted: bool) -> Any:
    """What the tokenizer makes of a text, without tokens around it.

    Args:
        control: spelt control tokens count as such; otherwise they are only text.
        wanted: what to return beside the ids, as transformers spells it.
    """
    with _turn:
        return tokenizer(
            text, add_special_tokens=False, split_special_tokens=not control, verbose=False, **wanted
        )
