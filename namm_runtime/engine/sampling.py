"""Sampling of the next token."""

import base64

import torch
from torch import Tensor


class Sampler:
    """Greedy at temperature 0, else multinomial with its own seeded generator."""

    def __init__(self, temperature: float, seed: int) -> None:
        self.temperature = temperature
        self.generator = torch.Generator().manual_seed(seed)

    def choose(self, logits: Tensor) -> int:
        """logits [1, vocab] → token id. Greedy ties go to the lowest id."""
        if self.temperature <= 0:
            return int(logits[0].argmax())
        probabilities = torch.softmax(logits[0].cpu().double() / self.temperature, dim=-1)
        return int(torch.multinomial(probabilities, 1, generator=self.generator))

    @property
    def state(self) -> str:
        """The generator's state as text."""
        return base64.b64encode(self.generator.get_state().numpy().tobytes()).decode()

    @state.setter
    def state(self, text: str) -> None:
        # A writable copy, since torch does not accept a read-only buffer.
        self.generator.set_state(torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8))
