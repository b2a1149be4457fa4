"""Decoding of one prompt's answer on its own fork of a document's memory, a few tokens at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from namm_runtime.engine.memory import Memory
from namm_runtime.engine.repetition import loop_start
from namm_runtime.engine.sampling import Sampler
from namm_runtime.errors import Refusal
from namm_runtime.model.loading import LoadedModel

RISK = 0.75  # share of evicted attention above which an answer is at risk


@dataclass(frozen=True)
class Answer:
    """One prompt's answer.

    Attributes:
        tokens: how many were decoded, those of a loop included.
        finish_reason: `stop`, `length`, or `repetition` for one that went into a loop; its text ends with
            the first copy of what it repeated.
        evicted_attention: share of the prompt's attention to the document that fell on slots evicted since;
            None if the reading was open or nothing was evicted.
        guided: whether the memory was read for this prompt.
        at_risk: whether so much was evicted that the answer may rest on what is lost.
    """

    prompt: str
    text: str
    tokens: int
    finish_reason: str
    evicted_attention: float | None = None
    guided: bool = False
    at_risk: bool = False


class Answering:
    """An answer that is being decoded.

    Args:
        memory: the fork that the prompt and the answer are fed to.
        prompt: the prompt's tokens, from `prompt_ids`.
        limit: maximum number of tokens in the answer.

    Raises:
        Refusal: `bad_request` for a limit below 1 or a temperature below 0.

    Attributes:
        produced: tokens of the answer so far. The newest one has not been fed yet.
        reason: why decoding stopped; None until it has.
        kept: with the reason `repetition`, how many of the tokens are the answer's text.
    """

    def __init__(self, memory: Memory, prompt: Sequence[int], limit: int, sampler: Sampler) -> None:
        if limit < 1 or sampler.temperature < 0:
            raise Refusal("bad_request", "max_output_tokens must be at least 1 and temperature at least 0")
        self.memory, self.prompt, self.limit, self.sampler = memory, list(prompt), limit, sampler
        self.produced: list[int] = []
        self.reason: str | None = None
        self.kept: int | None = None

    def advance(self, tokens: int) -> None:
        """Decode up to `tokens` more tokens."""
        for _ in range(tokens):
            fed = self.produced[-1:] or self.prompt
            ids = torch.tensor([fed], dtype=torch.int64, device=self.memory.model.device)
            token = self.sampler.choose(self.memory.feed(ids))
            if token in self.memory.model.stop_ids:
                self.reason = "stop"
                return
            self.produced.append(token)
            self.kept = loop_start(self.produced)
            if self.kept is not None:
                self.reason = "repetition"
                return
            if len(self.produced) == self.limit:
                self.reason = "length"
                return

    def finish(self, prompt: str, memory: Memory) -> Answer:
        """The answer to `prompt`, once decoding has stopped.

        Args:
            memory: the one that was forked.
        """
        evicted = memory.evicted_attention(self.prompt)
        return Answer(
            prompt,
            self.text,
            len(self.produced),
            str(self.reason),
            evicted,
            tuple(self.prompt) in memory.prompts,
            evicted is not None and evicted > RISK,
        )

    @property
    def text(self) -> str:
        """The answer so far."""
        ids = self.produced[: self.kept]
        decoded: str = self.memory.model.tokenizer.decode(ids, skip_special_tokens=True)
        return decoded.strip()

    @property
    def state(self) -> dict[str, Any]:
        """The part of a snapshot besides the fork's cache, as JSON."""
        return {"produced": self.produced, "generator": self.sampler.state}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self.produced, self.sampler.state = list(state["produced"]), state["generator"]


def prompt_ids(model: LoadedModel, prompt: str, interval: int) -> list[int]:
    """Tokens of `prompt` as it follows a document, with the chat template around it.

    Raises:
        Refusal: `prompt_too_long` for one that does not fit between two evictions.
    """
    ids = model.frame.prompt_ids(model.tokenizer, prompt)
    if len(ids) > interval:
        raise Refusal(
            "prompt_too_long", f"a prompt has {len(ids)} tokens; at most {interval} fit between evictions"
        )
    return ids


def ask(
    memory: Memory, prompt: str, max_output_tokens: int = 64, temperature: float = 0.0, seed: int = 0
) -> Answer:
    """Answer `prompt` from a fork of `memory`, which is not changed.

    Raises:
        Refusal: `prompt_too_long`, `bad_request`.
    """
    ids = prompt_ids(memory.model, prompt, memory.interval)
    answering = Answering(memory.fork_for(ids), ids, max_output_tokens, Sampler(temperature, seed))
    while answering.reason is None:
        answering.advance(16)
    return answering.finish(prompt, memory)
