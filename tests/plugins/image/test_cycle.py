"""A few pictures of each kind are enough for a cycle, and copies of a picture are one piece of evidence."""

from __future__ import annotations

import io

from PIL import Image
from support.drawings import face, flag, rings
from support.pictures import TASK, Draw, best, best_label, examples_of, labels_of, task_of, teach

from smallai_assistant import Assistant, ImagePart
from smallai_assistant.learning.learner import CycleOptions

KINDS = {"target": rings, "banner": flag, "smiley": face}


def copy_of(data: bytes) -> bytes:
    """Returns the picture as it is after somebody saved it again, a little smaller."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    file = io.BytesIO()
    image.resize((image.width * 9 // 10, image.height * 9 // 10)).save(file, "JPEG", quality=85)
    return file.getvalue()


def test_few_pictures_judge_and_teach(fresh: Assistant) -> None:
    for label, draw in KINDS.items():
        teach(fresh, draw, label, range(4))
    assert task_of(fresh).is_cheap_to_train
    report = fresh.learn(TASK)
    assert report.is_promoted, report.summary()
    assert (report.slices[0].n, report.training.n_new) == (12, 12)
    assert report.held_out_ids == ()
    assert [best_label(fresh, draw(100)) for draw in KINDS.values()] == list(KINDS)
    assert len(fresh.adapters.versions(TASK)) == 1


def test_copies_of_a_picture_are_one_subject(fresh: Assistant) -> None:
    teach(fresh, rings, "target", range(3))
    for data in (copy_of(rings(0)), flag(0), flag(1)):
        fresh.teach(TASK, ImagePart(data=data), "banner")
    examples = examples_of(fresh)
    assert examples[0].subject == examples[3].subject == examples[0].split_key
    assert [example.subject for example in (*examples[1:3], *examples[4:])] == [""] * 4


def test_a_head_of_ones_own_answers_one_person_over_that_for_everyone(fresh: Assistant) -> None:
    for label in ("target", "banner"):
        teach(fresh, KINDS[label], label, range(4))
    shared = fresh.learn(TASK)
    for number in range(4):
        for draw, label in ((face, "my brother"), (rings, "my logo")):
            fresh.teach(TASK, ImagePart(data=draw(20 + number)), label, source="ann", audience="user")
    own = fresh.learn(TASK, CycleOptions(audience="user:ann"))
    assert shared.is_promoted
    assert own.is_promoted, own.summary()
    # Nothing is left to the memory.
    assert fresh.adapters.get(own.adapter_id).retired_ids == fresh.adapters.get(own.adapter_id).feedback_ids

    def seen(user: str | None, draw: Draw) -> tuple[str, str | None]:
        response = fresh.ask(ImagePart(data=draw(100)), user_id=user)
        return best(response).label, response.turn.adapter

    assert seen("ann", face) == ("my brother", own.adapter_id)
    assert seen("ann", flag) == ("banner", shared.adapter_id)  # what everyone's version knows is not lost
    for user in ("bob", None):
        labels = {label.label for label in labels_of(fresh.ask(ImagePart(data=face(100)), user_id=user))}
        assert not labels & {"my brother", "my logo"}
        assert seen(user, flag) == ("banner", shared.adapter_id)
    fresh.rollback(TASK, audience="user:ann")
    assert seen("ann", face)[0] == "my brother"  # the memory has taken over again
