"""What a new process reads on from a snapshot is what one process reads straight through."""

from benchmarks import resume
from tests.support.tiny import save_tiny_llama


def test_reading_on_in_a_new_process_equals_reading_straight():
    row = resume.check(6_000)
    assert row["identical"], row["differs"]
    assert 2_500 < row["saved_at"] < 3_500 < row["tokens"]
    assert row["answers"] == 8


def test_a_sampled_answer_goes_on_where_it_was_saved(tmp_path):
    (tmp_path / "document.txt").write_text("Seven geese went north in June; the eighth one stayed. " * 40)
    part = resume.Part(
        str(tmp_path / "document.txt"),
        ["How many went?", "Which stayed?", "When?"],
        model=str(save_tiny_llama(tmp_path / "model")),
        policy="namm",
        temperature=1.0,
        max_output_tokens=40,
    )
    row = resume.compare(part, stop_at=2_200, stop_answering=1)
    assert row["identical"], row["differs"]
    assert 0 < row["saved_in_answer"] < 40
    assert row["answer_tokens"] == 120
