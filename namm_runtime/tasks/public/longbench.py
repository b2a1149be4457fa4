"""LongBench (arXiv 2308.14508): its fields, and the metric and answer length of each of its 21 datasets.

The instructions are our own wording: this project compares policies on the same prompts, and never compares
its scores with published ones.
"""

from dataclasses import dataclass

from namm_runtime.tasks.public.question import Question
from namm_runtime.tasks.public.record import BadRecord, Record


@dataclass(frozen=True)
class _Dataset:
    """A dataset's prompt, metric and answer length in tokens."""

    ask: str
    metric: str
    tokens: int
    first_line: bool = False


_SHORT = "Answer the question about the text above in a few words.\nQuestion: {input}\nAnswer:"
_SUMMARY = "Write a summary of the text above.\nSummary:"
_ZH = "请根据上文简短地回答问题。\n问题：{input}\n回答："
_COMPLETE = "{input}Next line of code:\n"
_PARAGRAPH = "Which paragraph above is this the abstract of?\n{input}\nAnswer as in: Paragraph 1\nAnswer:"

_DATASETS = {
    "narrativeqa": _Dataset(_SHORT, "f1", 128),
    "qasper": _Dataset(_SHORT, "f1", 128),
    "multifieldqa_en": _Dataset(_SHORT, "f1", 64),
    "multifieldqa_zh": _Dataset(_ZH, "f1_characters", 64),
    "hotpotqa": _Dataset(_SHORT, "f1", 32),
    "2wikimqa": _Dataset(_SHORT, "f1", 32),
    "musique": _Dataset(_SHORT, "f1", 32),
    "dureader": _Dataset(_ZH, "rouge_l_characters", 128),
    "gov_report": _Dataset(_SUMMARY, "rouge_l", 512),
    "qmsum": _Dataset("Answer from the meeting above.\nQuestion: {input}\nAnswer:", "rouge_l", 512),
    "multi_news": _Dataset(_SUMMARY, "rouge_l", 512),
    "vcsum": _Dataset("请总结上文的会议内容。\n总结：", "rouge_l_characters", 512),
    "trec": _Dataset("{input}", "classification", 64),
    "triviaqa": _Dataset("{input}", "f1", 32, first_line=True),
    "samsum": _Dataset("{input}", "rouge_l", 128, first_line=True),
    "lsht": _Dataset("{input}", "classification", 64),
    "passage_retrieval_en": _Dataset(_PARAGRAPH, "number", 32),
    "passage_count": _Dataset(
        "How many different paragraphs are there above, repeated ones counted once?\nAnswer:", "number", 32
    ),
    "passage_retrieval_zh": _Dataset(
        "以下摘要来自上文哪个段落？\n{input}\n按“段落1”的格式回答。\n回答：", "number", 32
    ),
    "lcc": _Dataset("Next line of code:\n", "edit", 64),
    "repobench-p": _Dataset(_COMPLETE, "edit", 64),
}


def question(record: Record) -> Question:
    name = record.text("dataset")
    dataset = _DATASETS.get(name.removesuffix("_e"))  # LongBench-E has the same datasets under these names
    if dataset is None:
        raise BadRecord(f"LongBench has no dataset '{name}'; its datasets are {', '.join(_DATASETS)}")
    wanted = record.text("input", "", empty=True)
    if "{input}" in dataset.ask and not wanted.strip():
        raise BadRecord(f"the field 'input' is empty, but '{name}' needs a question")
    return Question(
        task=name,
        context=record.text("context"),
        input=dataset.ask.replace("{input}", wanted),
        answers=record.texts("answers"),
        metric=dataset.metric,
        classes=record.texts("all_classes", empty=True) if record.fields["all_classes"] else (),
        first_line=dataset.first_line,
        max_output_tokens=dataset.tokens,
    )
