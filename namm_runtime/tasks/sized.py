"""Documents with at least a given number of tokens."""

from typing import Any

from namm_runtime.tasks.documents import Document, FillerKind, make_document
from namm_runtime.tasks.words import Split

_SAMPLE_CHARS = 200_000
_CLOSE = 1.03  # acceptable excess
_TRIES = 8


def document_of_tokens(
    tokenizer: Any, tokens: int, n_facts: int, seed: int, filler: FillerKind = "stdlib", split: Split = "test"
) -> Document:
    """A document of at least `tokens` tokens, and as few more as a few tries achieve.

    Args:
        tokenizer: a Hugging Face tokenizer, or one of the `tokenizers` package.
    """

    def count(text: str) -> int:
        if hasattr(tokenizer, "encode_batch"):
            return len(tokenizer.encode(text, add_special_tokens=False).ids)
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    sample = make_document(_SAMPLE_CHARS, 0, seed, split, filler).text
    chars = int(tokens * len(sample) / count(sample))
    best: tuple[int, Document] | None = None
    for _ in range(_TRIES):
        document = make_document(chars, n_facts, seed, split, filler)
        have = count(document.text)
        if have >= tokens and (best is None or have < best[0]):
            best = have, document
        if tokens <= have <= tokens * _CLOSE:
            break
        chars = int(chars * 1.01 * tokens / max(have, 1))
    if best is None:
        raise RuntimeError(f"no document of {tokens:,} tokens after {_TRIES} tries")
    return best[1]
