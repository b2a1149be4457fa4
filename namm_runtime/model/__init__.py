"""Models and what goes into them: loading, prompts, tokens."""
