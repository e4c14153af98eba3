"""Phrases in an answer."""

import pytest

from x2sam_rt.tasks.marks import link


def test_phrases_and_places() -> None:
    linked = link("<p>A dog</p> chases <p>a ball</p>. It is <SEG>.")
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
    linked = link(answer)
    assert (linked.text, linked.phrases) == (text, phrases)
