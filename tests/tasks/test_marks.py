"""Phrases in an answer."""

import pytest

from x2sam_rt.tasks.marks import Mark, link, parse_marks, parse_regions, phrase, spell


def test_phrases_and_places() -> None:
    linked = link(parse_marks("<p>A dog</p> chases <p>a ball</p>. It is <SEG>."))
    assert linked.text == "A dog chases a ball. It is."
    assert [(linked.text[s.start : s.end], s.label_id) for s in linked.spans] == [("A dog", 0), ("a ball", 1)]
    assert linked.phrases == ("A dog", "a ball")


@pytest.mark.parametrize(
    ("answer", "text", "phrases"),
    [
        ("", "", ()),
        ("no phrase", "no phrase", ()),
        ("a <p>b <p>c</p> d</p>", "a b c d", ("b c",)),
        ("a</p> <p>b", "a b", ()),
        ("<p></p><p>x</p>", "x", ("", "x")),
        ("<p>same</p> and <p>same</p>", "same and same", ("same", "same")),
        ("<SEG>", "", ()),
    ],
    ids=["empty", "none", "nested", "stray", "empty phrase", "doubled", "only a mask"],
)
def test_odd_answers(answer: str, text: str, phrases: tuple[str, ...]) -> None:
    linked = link(parse_marks(answer))
    assert (linked.text, linked.phrases) == (text, phrases)


def test_parsing_and_spelling_are_inverse() -> None:
    text = "<p>a <region></p> and b. <SEG>."
    marked = parse_marks(text)
    assert marked == (Mark.PHRASE_START, "a ", Mark.REGION, Mark.PHRASE_END, " and b. ", Mark.SEG, ".")
    assert spell(marked) == text


def test_only_regions_are_read_in_a_persons_words() -> None:
    assert parse_regions("<p>x</p> <REGION> <region>") == ("<p>x</p> <REGION> ", Mark.REGION)
    assert phrase(parse_regions("</p><SEG>")) == (Mark.PHRASE_START, "</p><SEG>", Mark.PHRASE_END)


@pytest.mark.parametrize("words", ["<p>", "</p>", "<SEG>"])
def test_words_that_are_a_mark_from_end_to_end_are_words(words: str) -> None:
    """Also between regions, where nothing else is left of them."""
    assert parse_regions(words) == (words,)
    assert parse_regions(f"{words}<region>{words}") == (words, Mark.REGION, words)


@pytest.mark.parametrize(
    ("answer", "text"),
    [("It is <SEG>.", "It is."), ("Done. <SEG>.", "Done."), ("<p>a</p><SEG>.", "a."), ("One <SEG> two", "One two")],
)
def test_a_mask_token_leaves_a_sentence(answer: str, text: str) -> None:
    assert link(parse_marks(answer)).text == text
