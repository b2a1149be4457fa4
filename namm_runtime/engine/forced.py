"""Teacher forcing: how well a memory predicts a given text, without generating anything."""

from dataclasses import dataclass

import torch
from torch import Tensor

from namm_runtime.engine.answering import prompt_ids
from namm_runtime.engine.memory import Memory
from namm_runtime.errors import Refusal
from namm_runtime.model.encoding import encode
from namm_runtime.model.loading import LoadedModel


@dataclass(frozen=True)
class Prediction:
    """How a text was predicted, token by token.

    Attributes:
        tokens: number of tokens predicted.
        right: how many of them were the likeliest in their place.
        nll: sum of their negative log-likelihoods, in nats.
    """

    tokens: int
    right: int
    nll: float

    @property
    def exact(self) -> bool:
        return self.right == self.tokens


def predict_answer(memory: Memory, prompt: str, lead: str, gold: str) -> Prediction:
    """Ask `prompt`, open the answer turn with `lead`, and predict `gold`. The memory is not changed.

    Raises:
        Refusal: `prompt_too_long` if all of it does not fit before the next eviction.
    """
    model = memory.model
    asked = prompt_ids(model, prompt, memory.interval)
    # Without a chat template nothing separates the prompt from the answer.
    context, target = _tokens(model, lead if model.frame.templated else f"\n{lead}", gold)
    return _predict(memory, [*asked, *context], target)


def predict_text(memory: Memory, text: str) -> Prediction | None:
    """Predict the text that goes on after what was read, given its first token. The memory is not changed.

    Only what fits before the next eviction is predicted; None if that is nothing.
    """
    ids = encode(memory.model.tokenizer, text)["input_ids"][: _room(memory)]
    return _predict(memory, ids[:1], ids[1:]) if len(ids) > 1 else None


def _tokens(model: LoadedModel, lead: str, gold: str) -> tuple[list[int], list[int]]:
    """Tokens of the lead and of what follows it, as in the joined text where the two agree."""
    first: list[int] = encode(model.tokenizer, lead)["input_ids"]
    both: list[int] = encode(model.tokenizer, lead + gold)["input_ids"]
    if both[: len(first)] == first:
        return first, both[len(first) :]
    return first, encode(model.tokenizer, gold)["input_ids"]


def _predict(memory: Memory, context: list[int], target: list[int]) -> Prediction:
    ids = context + target
    if len(ids) > _room(memory):
        raise Refusal("prompt_too_long", f"{len(ids)} tokens do not fit before the next eviction")
    fed = torch.tensor([ids[:-1]], dtype=torch.int64, device=memory.model.device)
    logits: Tensor = memory.fork().logits(fed)[0, len(context) - 1 :]
    wanted = torch.tensor(target, device=logits.device)
    nll = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
    return Prediction(len(target), int((logits.argmax(-1) == wanted).sum()), float(nll))


def _room(memory: Memory) -> int:
    """Tokens that fit before the next eviction."""
    return memory.interval - memory.cache.pending if memory.evicting else memory.interval
