"""An untrained bundled model: the structured initialisation over a freshly trained tokenizer."""

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from namm_runtime.tasks.families import FAMILIES
from namm_runtime.training.circuit_init import initialise
from namm_runtime.training.shapes import SHAPES, bundled_config
from namm_runtime.training.tokenizer import word_twins

PLAIN = {"multi": 1.0}  # weights of families
EVEN = dict.fromkeys(FAMILIES, 1.0)


def build(tokenizer: PreTrainedTokenizerFast, shape: str = "main") -> LlamaForCausalLM:
    model = LlamaForCausalLM(
        bundled_config(SHAPES[shape], len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    ).eval()
    initialise(model, SHAPES[shape], 0, word_twins(tokenizer))
    return model
