"""Training losses of the bundled models: answers, ordinary text, and attention to relevant values."""

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from namm_runtime.tasks.story import Role
from namm_runtime.training.circuit_init import MATCH_LAYER, MENTION_LAYER
from namm_runtime.training.curriculum import Batch
from namm_runtime.training.traced_forward import Trace, key_similarity, scores_from

_STOP_WEIGHT = 0.3
_TEXT_SHARE = 0.25
# The cosine similarity to the mean key should be below this for a fact's key, and above it for any other.
_BOUNDARY, _SHARPNESS = 0.35, 12.0
_HARDEST_SHARE = 0.02
_SAMPLED_QUERIES = 64
_NEAR = 16  # tokens


def answer_loss(model: LlamaForCausalLM, trace: Trace, batch: Batch) -> tuple[Tensor, list[float]]:
    """Cross-entropy (nats) of answers and their end token, and each sequence's accuracy on answer tokens."""
    roles = batch.roles[:, 1:]
    answers, stops = roles == Role.ANSWER, roles == Role.STOP
    chosen = answers | stops
    targets = batch.ids[:, 1:][chosen]
    # Logits only for positions with a loss: for the whole sequence they would cost more than the layers.
    logits = functional.linear(trace.hidden[:, :-1][chosen], model.lm_head.weight)
    weights = torch.where(stops[chosen], _STOP_WEIGHT, 1.0)
    losses = functional.cross_entropy(logits, targets, reduction="none")
    right = torch.zeros(roles.shape)
    right[chosen] = (logits.argmax(-1) == targets).float()
    accuracy = (right * answers).sum(1) / answers.sum(1)
    return (losses * weights).sum() / weights.sum(), accuracy.tolist()


def text_loss(model: LlamaForCausalLM, trace: Trace, batch: Batch) -> Tensor:
    """Cross-entropy (nats) on a random share of the filler, so that the model also learns ordinary text."""
    roles = batch.roles[:, 1:]
    chosen = (roles == Role.FILLER) & ~batch.junk[:, 1:] & (torch.rand(roles.shape) < _TEXT_SHARE)
    logits = functional.linear(trace.hidden[:, :-1][chosen], model.lm_head.weight)
    return functional.cross_entropy(logits, batch.ids[:, 1:][chosen])


def key_loss(trace: Trace, batch: Batch) -> Tensor:
    """Binary cross-entropy that makes the keys of planted values, and no others, unlike the mean key.

    Only for families in which everything that looks like a fact may be asked for; in others, keys alone
    cannot show what matters. Layer 0 only knows relative positions and is left out. Layer 1 needs only
    instructions
    from the past, but its cache is as full as any and should not fill with the strangest of a million tokens:
    it is included once documents are cluttered.
    """
    first = MENTION_LAYER if batch.cluttered else MATCH_LAYER
    total = trace.hidden.new_zeros(())
    if not batch.plain.any():
        return total
    roles = batch.roles[batch.plain]
    values = roles == Role.VALUE
    others = roles < Role.VALUE
    for keys in trace.keys[first:]:
        # Keys of the questions count as neither: a policy never scores them.
        logits = (_BOUNDARY - key_similarity(keys[batch.plain], others)) * _SHARPNESS  # [B, Hkv, L]
        logits = logits.transpose(1, 2)
        wrong = functional.softplus(logits[others]).flatten()
        # Over a million tokens the cache fills with the rare worst mistakes, so these are counted twice.
        hardest = wrong.topk(max(1, int(wrong.numel() * _HARDEST_SHARE))).values
        total = total + functional.softplus(-logits[values]).mean() + wrong.mean() + hardest.mean()
    return total / (len(trace.keys) - first)


def relevance_loss(
    trace: Trace, batch: Batch, probe: torch.nn.Linear
) -> tuple[Tensor, dict[str, list[float]]]:
    """Balanced cross-entropy (nats) of a linear probe for needed values, on the input of the match layer.

    Returns the loss, and by family each sequence's balanced accuracy.

    Only for documents that mark what they need. Without this loss a model never learns which values an
    instruction at the top refers to, and neither its keys nor its attention can show a policy.
    """
    accuracy: dict[str, list[float]] = {}
    needed, others = ((batch.roles == role) & batch.marked[:, None] for role in (Role.VALUE, Role.OTHER))
    if not needed.any() or not others.any():
        return trace.hidden.new_zeros(()), accuracy
    stream = trace.streams[MATCH_LAYER]
    logits = probe(functional.rms_norm(stream, stream.shape[-1:])).squeeze(-1)  # [B, L]
    for family, logit, yes, no in zip(batch.families, logits.detach(), needed, others, strict=True):
        if yes.any() and no.any():
            right = (logit[yes] > 0).float().mean() + (logit[no] < 0).float().mean()
            accuracy.setdefault(family, []).append(right.item() / 2)
    return functional.softplus(-logits[needed]).mean() + functional.softplus(logits[others]).mean(), accuracy


def near_loss(trace: Trace, batch: Batch) -> Tensor:
    """Penalty (nats) on needless attention to distant tokens before the match layer: -log of the rest.

    Layer 0 names a token's predecessors and layer 1 looks for mentions: what they need is near, or not
    filler. But a few per cent of attention to earlier tokens leaks into the names, and a head that finds no
    mention spreads over everything. Over a whole document that averages out. Over the 512 slots that a policy
    has left it depends on those few tokens, and a statement read with one such remainder is not matched with
    another.
    0 until documents are cluttered: a head that is penalised before it has found the one distant token it is
    for stops looking for it.
    """
    length = batch.ids.shape[1]
    total = trace.hidden.new_zeros(())
    if length <= 2 * _NEAR or not batch.cluttered:
        return total
    rows = torch.randint(2 * _NEAR, length, (_SAMPLED_QUERIES,))
    back = rows[:, None] - torch.arange(length)  # [S, L]
    for layer in range(MATCH_LAYER):
        scores = scores_from(rows, trace.rotated_queries[layer], trace.rotated_keys[layer])  # [B, H, S, L]
        needless = (back > _NEAR)[None]
        if layer == MENTION_LAYER:
            needless = needless & (batch.roles == Role.FILLER)[:, None]
        rest = scores.masked_fill(needless[:, None], -torch.inf).logsumexp(-1)
        total = total + (scores.logsumexp(-1) - rest).mean()
    return total


def gaze_loss(trace: Trace, batch: Batch) -> Tensor:
    """Divergence (nats) of document tokens' attention from a uniform one over earlier relevant values.

    Without this loss no token attends to a fact between its statement and its question, and an
    attention-based policy has no signal. Values that are irrelevant, overwritten or repeated get no share.
    """
    length = batch.ids.shape[1]
    rows = torch.randint(length // 4, int(batch.question_starts.min()), (_SAMPLED_QUERIES,))
    seen = torch.arange(length)[None] <= rows[:, None]  # [S, L]
    wanted = (batch.roles == Role.VALUE)[:, None] & seen  # [B, S, L]
    count = wanted.sum(-1)  # [B, S]
    total = trace.hidden.new_zeros(())
    for queries, keys in zip(
        trace.rotated_queries[MATCH_LAYER:], trace.rotated_keys[MATCH_LAYER:], strict=True
    ):
        scores = scores_from(rows, queries, keys)  # [B, H, S, L]
        everything = scores.logsumexp(-1)
        average = scores.masked_fill(~wanted[:, None], 0).sum(-1) / count.clamp(min=1)[:, None]
        divergence = everything - average - count.clamp(min=1).log()[:, None]
        total = total + (divergence * (count > 0)[:, None]).sum() / (count > 0).sum().clamp(min=1)
    return total / ((len(trace.keys) - MATCH_LAYER) * trace.rotated_queries[0].shape[1])
