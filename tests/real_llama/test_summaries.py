"""What a small instruct model answers to a summary template becomes key points with places."""

from pathlib import Path

from namm_runtime import policies
from namm_runtime.engine.answering import ask
from namm_runtime.engine.memory import Memory
from namm_runtime.model.loading import LoadedModel
from store.prompt_templates import BUILTIN, prompts_of
from worker.jobs.key_points import with_key_points

TEXT = (
    "Minutes of the harbour board, 3 May 2027.\n\nThe board approved the budget of EUR 52,000 for the new\n"
    "crane. It will be delivered on 14 September.\n\nMaren Lie reported that the pier had been repaired.\n"
)


def test_points_of_a_real_summary_are_placed(smollm2_model: LoadedModel, tmp_path: Path) -> None:
    document = tmp_path / "document"
    document.write_text(TEXT)
    memory = Memory(smollm2_model, policies.make("full", None), None, 512)
    memory.feed(smollm2_model.encode(TEXT))
    template = next(one for one in BUILTIN if one.label == "summary@2")
    [prompt] = prompts_of(template, 3, 40)
    answer = {"prompt": prompt, "text": ask(memory, prompt, 80).text}
    points = with_key_points([answer], 1, document)[0]["points"]
    assert 2 <= len(points) <= 5
    assert any("crane" in point["text"] for point in points)
    for point in points:
        assert not point["text"][0].isdigit()  # its number is not part of it
        assert (point["start"] is None) == (point["match"] is None)
        if point["located"]:
            assert TEXT[point["start"] : point["end"]].split() == point["quote"].split()
