"""Save a trained model with its tokenizer and generation settings."""

from pathlib import Path

from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write model and tokenizer in the format of transformers."""
    line_break = tokenizer.convert_tokens_to_ids("Ċ")  # byte-level spelling of "\n"
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        # An answer is one line: either of the two tokens after the full stop ends it.
        eos_token_id=[tokenizer.eos_token_id, line_break],
        pad_token_id=tokenizer.eos_token_id,
        do_sample=False,
        max_new_tokens=32,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
