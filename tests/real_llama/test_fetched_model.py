"""The model that `namm model add smollm2-135m` makes is the one that was published."""

import json
from pathlib import Path

from namm_runtime import policies
from namm_runtime.engine.answering import ask
from namm_runtime.engine.memory import Memory
from namm_runtime.model import fetching
from namm_runtime.model.catalogue import KNOWN, MANIFEST
from namm_runtime.model.loading import LoadedModel

TEXT = (
    "The harbour of Veldt was dredged in 1987. Its lighthouse keeper, Ines Moreau, lives in the white house "
    "on the quay with two dogs. The ferry to the island leaves at 7:40 in the morning.\n"
)


def test_it_answers_a_question_about_a_text(smollm2_model: LoadedModel) -> None:
    memory = Memory(smollm2_model, policies.make("full", None), None, 512)
    memory.feed(smollm2_model.encode(TEXT))
    assert "7:40" in ask(memory, "At what time does the ferry leave?", 24).text


def test_it_answers_in_its_own_chat_frame(smollm2_model: LoadedModel) -> None:
    tokenizer, frame = smollm2_model.tokenizer, smollm2_model.frame
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert frame.prefix.count(start) == 2  # of the system turn and the user's
    assert frame.prompt_ids(tokenizer, "Why?").count(end) == 1
    assert end in smollm2_model.stop_ids


def test_its_manifest_says_where_it_is_from(smollm2: Path) -> None:
    manifest = json.loads((smollm2 / MANIFEST).read_text())
    known = KNOWN["smollm2-135m"]
    assert manifest["packages"] == list(known.packages)
    assert manifest["gguf_sha256"] == known.sha256
    assert manifest["licence_in_file"] == "apache-2.0"
    size = sum(file.stat().st_size for file in smollm2.iterdir())
    assert abs(size - known.disk_bytes) < 1e6


def test_adding_it_again_does_nothing(smollm2: Path) -> None:
    before = (smollm2 / MANIFEST).stat()
    assert fetching.add("smollm2-135m", smollm2.parent) == smollm2
    assert (smollm2 / MANIFEST).stat() == before
