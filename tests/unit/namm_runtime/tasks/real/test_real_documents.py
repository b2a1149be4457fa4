"""Documents of real text: exact lengths, facts where they are said to be, prompts that give nothing away."""

import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from namm_runtime.bundled import MODELS
from namm_runtime.errors import Refusal
from namm_runtime.model.encoding import encode
from namm_runtime.model.prompts import frame_for
from namm_runtime.tasks.real import Asked, RealDocument, real_documents
from namm_runtime.tasks.real.documents import CONTINUATION
from namm_runtime.tasks.real.planted import HARD

TOKENS = 1536
ASKED = Asked(facts=4, hard=2, absent=1, text=2, quotes=1)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODELS["bundled"])


@pytest.fixture(scope="module")
def documents(tokenizer) -> list[RealDocument]:
    return list(real_documents("test", TOKENS, 10, 0, tokenizer, asked=ASKED))


def ids(tokenizer, text: str) -> list[int]:
    return list(encode(tokenizer, text)["input_ids"])


def items_of(documents: list[RealDocument], task: str):
    for document in documents:
        for item, spans in zip(document.items, document.evidence, strict=True):
            if item.task == task:
                yield item, [document.text[begin:end] for begin, end in spans]


def test_documents_have_exactly_the_requested_tokens_and_go_on(tokenizer, documents):
    prefix = len(frame_for(tokenizer).prefix)
    for document in documents:
        before, after = ids(tokenizer, document.text), ids(tokenizer, document.following)
        assert prefix + len(before) == TOKENS
        assert len(after) == CONTINUATION
        assert ids(tokenizer, document.text + document.following) == before + after


def test_the_same_arguments_give_the_same_documents(tokenizer, documents):
    assert list(real_documents("test", TOKENS, 2, 0, tokenizer, asked=ASKED)) == documents[:2]
    (other,) = real_documents("test", TOKENS, 1, 1, tokenizer, asked=ASKED)
    assert other.text != documents[0].text


def test_documents_are_of_different_text(documents):
    passages = [document.text[begin : begin + 80] for document in documents for begin in range(0, 3000, 500)]
    texts = [document.text for document in documents]
    shared = [passage for passage in passages if sum(passage in text for text in texts) > 1]
    # The library itself repeats some paragraphs.
    assert len(shared) < len(passages) / 10


def test_documents_of_several_lengths_share_no_more_text_than_those_of_one(tokenizer):
    made = list(real_documents("test", (1024, 1536), 3, 0, tokenizer, asked=Asked(2, 0, 0, 0, 0)))
    assert [document.tokens for document in made] == [1024] * 3 + [1536] * 3
    passages = [document.text[begin : begin + 80] for document in made for begin in range(0, 2000, 500)]
    shared = [passage for passage in passages if sum(passage in other.text for other in made) > 1]
    assert len(shared) < len(passages) / 10


def test_every_document_has_the_questions_asked_for(documents):
    for document in documents:
        tasks = [item.task for item in document.items]
        assert (tasks.count("fact"), tasks.count("absent")) == (4, 1)
        assert sum(task in HARD for task in tasks) == 2
        assert all(item.context == document.text for item in document.items)
    assert {task for document in documents for task in (item.task for item in document.items)} >= set(HARD)


def test_prompts_hold_neither_the_answer_nor_the_lead(documents):
    for document in documents:
        for item in document.items:
            if item.forced and item.task != "order":  # which names the candidates
                assert item.forced.gold.strip() not in item.input
                assert item.forced.lead not in item.input


def test_a_fact_stands_once_in_the_document_and_its_sentence_is_what_is_forced(documents):
    for item, (sentence,) in items_of(documents, "fact"):
        assert item.context.count(sentence) == 1
        assert sentence.startswith(item.forced.lead + item.forced.gold)
        assert item.forced.gold == f" {item.answers[0]}"
        assert item.asked


def test_what_is_absent_is_stated_of_another_thing_only(documents):
    for item, spans in items_of(documents, "absent"):
        name = next(word for word in re.findall(r"(?<!^)[A-Z]\w+", item.input))
        assert not spans
        assert not item.answers
        assert not re.search(rf"the {name} |(at|above|in|near) {name}\b", item.context)


def test_the_answers_to_harder_questions_follow_from_their_sentences(documents):
    for item, sentences in items_of(documents, "latest"):
        numbers = [re.search(r"\d+", sentence).group() for sentence in sentences]
        assert len(numbers) > 1
        assert item.answers == (numbers[-1],)
        assert item.context.index(sentences[0]) < item.context.index(sentences[-1])
    for item, sentences in items_of(documents, "count"):
        assert item.answers == (str(len(sentences)),)
        name = re.search(r"the ([A-Z]\w+) ", item.input).group(1)
        assert item.context.count(f"A fault at the {name} ") == len(sentences)
    for item, sentences in items_of(documents, "order"):
        first = min(sentences, key=lambda sentence: re.search(r"\d{4}", sentence).group())
        assert item.answers[0] in first
        assert set(item.classes) <= set(re.findall(r"[A-Z]\w+", item.input))
    for item, sentences in items_of(documents, "two_places"):
        person = re.search(r"(\w+ \w+) is in charge", " ".join(sentences)).group(1)
        assert all(person in sentence for sentence in sentences)
        assert person not in item.input


def test_sentences_and_passages_of_the_text_are_forced_as_they_stand(documents):
    for task in ("text", "quote"):
        for item, (passage,) in items_of(documents, task):
            assert passage == item.forced.lead + item.forced.gold
            assert item.context.count(item.forced.lead) == 1
            assert not item.asked
    for item, _ in items_of(documents, "text"):
        assert item.context.count(item.answers[0]) == 1


@pytest.mark.parametrize("language", ["ru", "zh", "ar"])
def test_other_languages_are_composed_of_sentences_of_their_own(tokenizer, language: str):
    asked = Asked(facts=2, hard=2, absent=1, text=0, quotes=0)
    made = list(real_documents("test", 3072, 2, 0, tokenizer, asked=asked, language=language))
    prefix = len(frame_for(tokenizer).prefix)
    assert [prefix + len(ids(tokenizer, document.text)) for document in made] == [3072, 3072]
    for document in made:
        for item, spans in zip(document.items, document.evidence, strict=True):
            sentences = [document.text[begin:end] for begin, end in spans]
            assert item.task == "absent" or sentences
            if item.task == "fact":
                assert sentences[0].startswith(item.forced.lead + item.forced.gold)
    assert {item.task for document in made for item in document.items} >= set(HARD)


def test_a_folder_of_ones_own_is_the_source(tokenizer, tmp_path: Path):
    for number in range(40):
        sentences = " ".join(f"Chapter {number} says that item {place} is kept." for place in range(60))
        (tmp_path / f"{number}.md").write_text(f"# Handbook {number}\n\n{sentences}\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "notes.md").write_text("secret\n" * 4000)
    found = list(real_documents("test", TOKENS, 2, 0, tokenizer, tmp_path, ASKED))
    assert all("Chapter" in document.text and "secret" not in document.text for document in found)
    with pytest.raises(Refusal, match="not a folder"):
        next(real_documents("test", TOKENS, 1, 0, tokenizer, tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refusal, match="no text or code"):
        next(real_documents("test", TOKENS, 1, 0, tokenizer, tmp_path / "empty"))


def test_a_length_too_small_for_the_facts_is_refused(tokenizer):
    with pytest.raises(Refusal, match="too few"):
        next(real_documents("test", 64, 1, 0, tokenizer))
