"""Choose the next token."""

import torch
from torch import Tensor


class Sampler:
    """Greedy at temperature 0, else multinomial with its own seeded generator."""

    def __init__(self, temperature: float, seed: int) -> None:
        self.temperature = temperature
        self.generator = torch.Generator().manual_seed(seed)

    def choose(self, logits: Tensor) -> int:
        """logits [1, vocab] → token id. The lowest id wins among equal greedy logits."""
        if self.temperature <= 0:
            return int(logits[0].argmax())
        probabilities = torch.softmax(logits[0].cpu().double() / self.temperature, dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=self.generator))
