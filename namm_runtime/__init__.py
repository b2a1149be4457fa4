"""NAMM for any Hugging Face Llama: read a long document into a bounded memory, answer from it."""
