"""A caption is true of the state, a richer one says more, and a question has one right answer."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from policies.synthetic import COLOURS, make_spec

from worldlab.policies import captions
from worldlab.policies.captions import GRASP, LEVEL, NEAR, SceneReader, caption, prompts, questions, replies
from worldlab.policies.text import TextTokenizer

CUBE = ("x", "y", "z", "present", "front.u", "front.v")
NAMES = (*(f"gripper.{axis}" for axis in "xyz"), *(f"{c}_cube.{name}" for c in COLOURS for name in CUBE))
SPEC = make_spec(labelled=False)
SPEC = type(SPEC)(**{**vars(SPEC), "privileged": NAMES})
READ = SceneReader(SPEC, "front")
RICHNESS = ("plain", "spatial", "dense")


@st.composite
def rows(draw):
    """Random states: cubes absent, outside the image, level with each other, or between the fingertips."""
    place = st.floats(-0.05, 0.05)
    row = {name: draw(place) for name in NAMES[:3]}
    for colour in COLOURS:
        row |= {f"{colour}_cube.{axis}": draw(place) for axis in "xyz"}
        row[f"{colour}_cube.present"] = float(draw(st.booleans()))
        row |= {f"{colour}_cube.front.{axis}": draw(st.floats(-0.1, 1.1)) for axis in "uv"}
    return row


def read(row):
    return READ([row[name] for name in NAMES])


def seen(row):
    """Recomputed from the row alone."""
    inside = lambda c: all(0 <= row[f"{c}_cube.front.{axis}"] <= 1 for axis in "uv")  # noqa: E731
    return {c for c in COLOURS if row[f"{c}_cube.present"] == 1 and inside(c)}


def away(row, colour):
    return sum((row[f"{colour}_cube.{axis}"] - row[f"gripper.{axis}"]) ** 2 for axis in "xyz") ** 0.5


def held(row, colour):
    return away(row, colour) < GRASP < row[f"{colour}_cube.z"]


def true(sentence, row):
    """Parse a sentence back and look."""
    u, v = ({c: row[f"{c}_cube.front.{axis}"] for c in COLOURS} for axis in "uv")
    if found := re.fullmatch(r"(\w+) is left of (\w+)", sentence):
        return {*found.groups()} <= seen(row) and u[found[1]] + LEVEL < u[found[2]]
    if found := re.fullmatch(r"(\w+) is below (\w+)", sentence):
        return {*found.groups()} <= seen(row) and v[found[1]] > v[found[2]] + LEVEL
    if found := re.fullmatch(r"the gripper is nearest to (\w+)", sentence):
        return all(away(row, found[1]) + NEAR < away(row, c) for c in seen(row) - {found[1]})
    if sentence == "nothing is held":
        return not any(held(row, c) for c in seen(row))
    if found := re.fullmatch(r"(\w+) is held", sentence):
        return found[1] in seen(row) and held(row, found[1])
    return set(re.findall(r"a (\w+) cube", sentence)) == seen(row) and (bool(seen(row)) or sentence == "no cube")


def sentences(text):
    assert text.endswith(" .")
    return text.removesuffix(" .").split(" . ")


@given(rows(), st.sampled_from(RICHNESS))
def test_every_sentence_of_a_caption_is_true(row, richness):
    for sentence in sentences(caption(read(row), richness)):
        assert true(sentence, row), sentence


@given(rows())
def test_a_richer_caption_says_all_that_a_plainer_one_says(row):
    plain, spatial, dense = (sentences(caption(read(row), richness)) for richness in RICHNESS)
    assert spatial[: len(plain)] == plain
    assert dense[: len(spatial)] == spatial
    assert len(set(dense)) == len(dense)


def right(kind, text, row):
    """Every right answer to a question, judged from the row alone."""
    here, u = seen(row), {c: row[f"{c}_cube.front.u"] for c in COLOURS}
    named = [word for word in text.split() if word in COLOURS]
    left_of = {c for c in here if named and u[c] < u[named[0]]}
    return {
        "there": lambda: {"yes" if named[0] in here else "no"},
        "count": lambda: {captions.NUMBERS[len(here)]},
        "end": lambda: {(min if "leftmost" in text else max)(here, key=u.__getitem__)},
        "neighbour": lambda: {c for c in left_of if all(u[c] >= u[d] for d in left_of)},
        "side": lambda: {"yes" if u[named[0]] < u[named[1]] else "no"},
        "nearest": lambda: {c for c in here if all(away(row, c) <= away(row, d) for d in here)},
        "held": lambda: {"yes" if held(row, named[0]) else "no"},
    }[kind]()


@given(rows())
def test_a_question_has_one_right_answer(row):
    for kind, asked in questions(read(row)).items():
        assert len({q.text for q in asked}) == len(asked)
        for q in asked:
            assert right(kind, q.text, row) == {q.answer}, q


@given(rows())
def test_the_vocabulary_holds_every_text_and_no_text_is_cut(row):
    tokenizer = TextTokenizer.of_words(prompts(COLOURS), replies(COLOURS))
    sight = read(row)
    asked = [q for of_kind in questions(sight).values() for q in of_kind]
    assert {q.text for q in asked} <= set(prompts(COLOURS))
    texts = [caption(sight, "dense"), *(q.answer for q in asked)]
    for encode, said in ((tokenizer.notes, texts), (tokenizer, [captions.PROMPT, *(q.text for q in asked)])):
        ids, valid = encode(said)
        assert not (ids == 1).any()  # [UNK]
        if sum(cube.held for cube in sight.cubes) < 2:
            assert valid.sum(1).tolist() == [len(text.split()) for text in said]


def test_what_the_data_does_not_say_is_not_said():
    spec = make_spec()
    row = torch.zeros(len(spec.privileged))
    row[spec.privileged.index("red_cube.present")] = 1
    sight = SceneReader(spec, "front")(row.tolist())  # it has no gripper
    assert caption(sight, "dense") == "a red cube ."
    assert not {"held", "nearest"} & set(questions(sight))


@pytest.mark.parametrize("count", range(1, 5))
def test_a_listing_reads_as_english(count):
    spec = make_spec()
    row = torch.zeros(len(spec.privileged))
    for c in COLOURS[:count]:
        row[spec.privileged.index(f"{c}_cube.present")] = 1
    text = caption(SceneReader(spec, "front")(row.tolist()), "plain")
    assert text.count(" , ") == max(count - 2, 0)
    assert text.count(" and ") == min(count - 1, 1)
