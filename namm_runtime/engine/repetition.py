"""Detection of answers that loop, from their token ids alone.

A loop is a tail of the answer that repeats a block of tokens exactly: a token ("4444…"), a phrase or a few
sentences. Lists and tables are not loops, since their numbers or words change from one entry to the next.

The thresholds were chosen by trying. Of 4,628 files of documentation, licences and source code (16 million
tokens), 8 reach them with the tokenizer of Qwen2.5 and 11 with that of SmolLM2, nearly all of them with
tables of equal numbers or glyphs. An answer of 64 tokens, the default limit, is long enough for a loop to be
noticed.
"""

from collections.abc import Sequence

LONGEST_BLOCK = 256  # tokens; answers that repeat something longer are not stopped
COPIES = 3  # of the block, and in addition
SPARE = 32  # tokens, so that a short block has to occur more often than a long one
SHORTEST_LOOP = 48  # tokens


def loop_start(ids: Sequence[int]) -> int | None:
    """The number of tokens up to the end of the first copy, if `ids` ends in a loop; else None.

    A loop of a block of n tokens has at least 3 · n + 32 tokens, and at least 48: 48 copies of one token, a
    little over 6 of a block of 10, or 4 of a block of 32. A call takes tens of microseconds.
    """
    if len(ids) < SHORTEST_LOOP:
        return None
    for block in range(1, min(LONGEST_BLOCK, (len(ids) - SPARE) // COPIES) + 1):
        if ids[-1] == ids[-1 - block]:
            loop = max(COPIES * block + SPARE, SHORTEST_LOOP)
            if ids[block - loop :] == ids[-loop:-block]:
                return _end_of_first_copy(ids, block)
    return None


def _end_of_first_copy(ids: Sequence[int], block: int) -> int:
    """Where the first copy ends; the loop may be longer than it has to be."""
    end = len(ids)
    while end > block and ids[end - 1] == ids[end - 1 - block]:
        end -= 1
    return end
