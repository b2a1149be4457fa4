"""The layout of the prompts that guide a reading; `namm_runtime.attention.prompts` says what they do."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SCORE_BYTES = 8 << 20  # scores of prompts that attend together; a single prompt may need more

Span = tuple[int, int]  # begin, end


@dataclass(frozen=True)
class Guide:
    """The prompts that guide a reading, laid out one after the other.

    Attributes:
        ids: [B, Q] token ids; a prompt is padded on the left where another document's is longer.
        offsets: [B, Q] int64, the index of each token in its prompt; -1 for padding.
        spans: of each prompt in Q.
        turns: of each turn's prompts in Q.
    """

    ids: Tensor
    offsets: Tensor
    spans: tuple[Span, ...]
    turns: tuple[Span, ...]

    @classmethod
    def of(
        cls,
        documents: Sequence[Sequence[Sequence[int]]],
        turn_tokens: int | None = None,
        device: torch.device | str = "cpu",
    ) -> "Guide":
        """Lay out the prompts of each document of a batch; all documents have equally many.

        Args:
            documents: token ids of each document's prompts; not empty.
            turn_tokens: tokens that pass through the model at an eviction, if no prompt alone is longer; None
                for no limit.
        """
        by_prompt = list(zip(*documents, strict=True))
        widths = [max(map(len, rows)) for rows in by_prompt]
        ends = [sum(widths[: index + 1]) for index in range(len(widths))]
        spans = tuple((end - width, end) for end, width in zip(ends, widths, strict=True))
        ids = torch.zeros(len(documents), ends[-1], dtype=torch.int64)
        offsets = torch.full_like(ids, -1)
        for row, prompts in enumerate(documents):
            for (_, end), prompt in zip(spans, prompts, strict=True):
                ids[row, end - len(prompt) : end] = torch.tensor(prompt)
                offsets[row, end - len(prompt) : end] = torch.arange(len(prompt))
        return cls(ids.to(device), offsets.to(device), spans, _turns(spans, turn_tokens))

    @property
    def whole(self) -> Span:
        """The span of all prompts."""
        return 0, self.spans[-1][1]

    def blocks(self, within: Span, bytes_a_token: int) -> list[range]:
        """The prompts of a span in blocks of consecutive ones whose scores together fit into SCORE_BYTES."""
        blocks: list[range] = []
        for index, (begin, end) in enumerate(self.spans):
            if begin < within[0] or end > within[1]:
                continue
            if blocks and (end - self.spans[blocks[-1].start][0]) * bytes_a_token <= SCORE_BYTES:
                blocks[-1] = range(blocks[-1].start, index + 1)
            else:
                blocks.append(range(index, index + 1))
        return blocks

    def visible(self, block: range) -> Tensor:
        """[B, q, q] bool: which of its own prompt's tokens each token attends to. Padding sees itself."""
        low, high = self.tokens(block)
        real = self.offsets[:, low:high] >= 0
        prompt = torch.tensor([i for i in block for _ in range(*self.spans[i])], device=real.device)
        index = torch.arange(high - low, device=real.device)
        own = (prompt[:, None] == prompt) & (index <= index[:, None])
        return (own & real.unsqueeze(1)) | torch.eye(high - low, dtype=torch.bool, device=real.device)

    def averages(self, block: range) -> Tensor:
        """[B, P, q] fp32 weights that average the tokens of each prompt."""
        low, high = self.tokens(block)
        real = (self.offsets[:, low:high] >= 0).float()
        rows = real.new_zeros(len(real), len(block), high - low)
        for row, index in enumerate(block):
            begin, end = (edge - low for edge in self.spans[index])
            own = real[:, begin:end]
            rows[:, row, begin:end] = own / own.sum(-1, keepdim=True)
        return rows

    def tokens(self, block: range) -> Span:
        """The span of a block of prompts."""
        return self.spans[block.start][0], self.spans[block.stop - 1][1]


def _turns(spans: tuple[Span, ...], limit: int | None) -> tuple[Span, ...]:
    turns: list[Span] = []
    for begin, end in spans:
        if turns and (limit is None or end - turns[-1][0] <= limit):
            turns[-1] = (turns[-1][0], end)
        else:
            turns.append((begin, end))
    return tuple(turns)
