"""Pictures are learned at once, through the assistant, on the real EfficientNet-Lite0."""

from __future__ import annotations

import io
import threading
import unicodedata
from dataclasses import replace

import pytest
from PIL import Image
from support.drawings import face, flag, rings
from support.pictures import CHAIR, TASK, ask, best, best_label, codes, examples_of, labels_of, task_of, teach

from bench.data import imagenet_photos
from smallai_assistant import Assistant, AssistantConfig, Feedback, ImagePart
from smallai_assistant.errors import InvalidInput


def test_taught_pictures_are_recognized_and_photos_kept(fresh: Assistant) -> None:
    before = {draw: best_label(fresh, draw(100)) for draw in (rings, flag)}
    assert set(before.values()).isdisjoint({"target", "banner"})
    effects = [fresh.teach(TASK, ImagePart(data=rings(seed)), "target").effect for seed in range(3)]
    assert "“target” from 3 pictures" in effects[-1]
    teach(fresh, flag, "banner", range(3))
    for draw, label in ((rings, "target"), (flag, "banner")):
        answers = [ask(fresh, draw(seed)) for seed in range(100, 104)]
        assert [best(answer).label for answer in answers] == [label] * 4
        assert {best(answer).id for answer in answers} == {-1}
        assert all("taught_label" in codes(answer) and f"“{label}”" in answer.text for answer in answers)
        assert all(answer.details["memory"] == [3] for answer in answers)
    photos = imagenet_photos()
    right = [best(fresh.ask(path)).id == truth for path, truth in photos]
    assert sum(right) >= 18
    chair = fresh.ask(photos[CHAIR][0])
    assert "memory" not in chair.details
    assert "taught_label" not in codes(chair)
    scores = [label.score for label in labels_of(fresh.ask(photos[CHAIR][0], options={"top": 1000}))]
    assert sum(scores) == pytest.approx(1.0, abs=0.02)  # of 1002 labels the last two are cut off


def test_taught_picture_is_recognized_next_turn(fresh: Assistant) -> None:
    # How long it takes is measured by `bench.teach_image`.
    for seed in range(1, 6):
        fresh.teach(TASK, ImagePart(data=rings(seed)), f"thing {seed}")
        assert best_label(fresh, rings(seed)) == f"thing {seed}"


def test_correction_becomes_the_label(fresh: Assistant) -> None:
    wrong = ask(fresh, face(1))
    assert best(wrong).label != "smiley"
    receipt = wrong.rate(correction="No, it's a Smiley!")
    assert "“Smiley”" in receipt.effect
    again = ask(fresh, face(1))
    assert best(again).label == "Smiley"
    assert best(again).score > 0.9
    assert best(wrong).label not in {label.label for label in labels_of(again)}
    ask(fresh, face(1)).rate(correction="emoticon")  # newer feedback overrides it
    assert best_label(fresh, face(1)) == "emoticon"


def test_correction_to_a_model_class_raises_it(fresh: Assistant) -> None:
    assert best_label(fresh, rings(10)) != "gong"
    for seed in range(3):
        ask(fresh, rings(seed)).rate(correction="Gong")
    response = ask(fresh, rings(10))
    found = best(response)
    assert (found.label, found.id) == ("gong", 577)  # the model's class, not a second one with the same name
    assert found.score > 0.5
    assert [label.label for label in labels_of(response)].count("gong") == 1


def test_refused_label_is_not_given_again(fresh: Assistant) -> None:
    photo = imagenet_photos()[CHAIR][0]
    first = fresh.ask(photo)
    assert "is not given for this picture again" in first.rate(good=False).effect
    again = fresh.ask(photo)
    assert best(again).label != best(first).label
    assert "refused_label" in codes(again)
    file = io.BytesIO()  # nearly the same picture: a little smaller, and compressed again
    image = Image.open(photo).convert("RGB")
    image.resize((image.width * 9 // 10, image.height * 9 // 10)).save(file, format="JPEG", quality=85)
    assert best_label(fresh, file.getvalue()) != best(first).label
    first.rate(good=True)  # newer feedback overrides the refusal
    assert best(fresh.ask(photo)).label == best(first).label


def test_undo_erase_and_restart(config: AssistantConfig) -> None:
    with Assistant(config) as assistant:
        before = best_label(assistant, rings(100))
        given = [*teach(assistant, rings, "target", range(3)), *teach(assistant, flag, "banner", range(3))]
    with Assistant(config) as assistant:
        assert best_label(assistant, rings(100)) == "target"
        assert best_label(assistant, flag(100)) == "banner"
        for feedback in given[:2]:
            assistant.undo_feedback(feedback.id)
        assert best_label(assistant, rings(2)) == "target"  # one picture is left
        assistant.erase_feedback([feedback.id for feedback in given])
        assert best_label(assistant, rings(100)) == before
        assert "memory" not in ask(assistant, flag(100)).details
    with Assistant(config) as assistant:
        assert best_label(assistant, rings(100)) == before


def test_confusable_labels_are_reported(fresh: Assistant) -> None:
    assert "hard to tell" not in fresh.teach(TASK, ImagePart(data=rings(0)), "target").effect
    teach(fresh, rings, "target", range(1, 3))
    assert "hard to tell" not in fresh.teach(TASK, ImagePart(data=flag(0)), "banner").effect
    teach(fresh, rings, "bullseye", range(10, 12))
    effect = fresh.teach(TASK, ImagePart(data=rings(12)), "bullseye").effect
    assert "hard to tell from “target”" in effect
    assert "banner" not in effect


def test_taught_labels_count_among_own_labels(fresh: Assistant) -> None:
    teach(fresh, rings, "zorp", range(3))  # a word without meaning, which ConSE cannot match
    response = fresh.ask(ImagePart(data=rings(100)), options={"labels": ["keyboard", "Zorp", "dog"]})
    assert best(response).label == "Zorp"
    assert {label.label for label in labels_of(response)} == {"keyboard", "Zorp", "dog"}


def test_unusable_feedback_is_skipped(fresh: Assistant) -> None:
    teach(fresh, rings, "target", range(3))
    long = fresh.teach(TASK, ImagePart(data=flag(0)), "x" * 15_000)
    assert [notice.code for notice in long.notices] == ["not_learned_yet"]
    assert not fresh.teach(TASK, ImagePart(data=flag(1)), "?!").effect
    assert fresh.teach(TASK, ImagePart(data=b"no picture"), "thing").notices
    several = fresh.ask([ImagePart(data=rings(1)), ImagePart(data=flag(2))])
    assert several.rate(correction="one of them").notices
    assert not several.rate(good=False).effect
    assert best_label(fresh, rings(100)) == "target"


def test_missing_picture_is_skipped(fresh: Assistant, config: AssistantConfig) -> None:
    teach(fresh, rings, "target", range(3))
    judged_turns = fresh.feedback.judged_turns(TASK)
    gone = ImagePart(config.data_dir / "gone.png")
    request = replace(judged_turns[0].turn.request, parts=(gone,))
    missing = replace(judged_turns[0], turn=replace(judged_turns[0].turn, request=request))
    task = task_of(fresh)
    with pytest.raises(InvalidInput, match=r"gone\.png"):
        task.learn_now(missing)
    task.rebuild([missing, *judged_turns])
    assert best_label(fresh, rings(100)) == "target"
    assert [example.expected for example in task.examples([missing, *judged_turns])] == ["target"] * 3
    example = examples_of(fresh)[0]
    unreadable = replace(example, payload=replace(example.payload, part=gone))
    assert [score.value for score in task.evaluate([unreadable], None, fresh.models)] == [0.0]


def test_teaching_while_others_ask(fresh: Assistant) -> None:
    failures: list[BaseException] = []

    def ask_four_times() -> None:
        try:
            for seed in range(4):
                assert best_label(fresh, flag(200 + seed))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask_four_times) for _ in range(4)]
    for thread in threads:
        thread.start()
    teach(fresh, rings, "target", range(4))
    for thread in threads:
        thread.join()
    assert not failures
    assert best_label(fresh, rings(100)) == "target"


# -- labels are one class however they are spelled, and receipts hold --


def test_spellings_of_a_label_are_one_class(fresh: Assistant) -> None:
    spellings = ("Café Zoë", unicodedata.normalize("NFD", "Café Zoë"), " café  zoë ", "CAFÉ ZOË")
    effects = [
        fresh.teach(TASK, ImagePart(data=rings(seed)), spelling).effect for seed, spelling in enumerate(spellings)
    ]
    told = [effect.partition("” ")[2] for effect in effects]
    assert told == ["from 1 picture.", "from 2 pictures.", "from 3 pictures.", "from 4 pictures."]
    assert best_label(fresh, rings(100)) == "Café Zoë"
    assert [example.expected for example in examples_of(fresh)][:2] == ["Café Zoë", "Café Zoë"]
    other = fresh.ask(ImagePart(data=rings(0)), options={"labels": [spellings[1], "dog"]})
    assert best(other).label == spellings[1]


def test_receipt_of_a_label_holds(fresh: Assistant) -> None:
    for seed, draw in enumerate((rings, flag, face)):
        assert fresh.teach(TASK, ImagePart(data=draw(seed)), f"thing {seed}").effect == (
            f"I now know “thing {seed}” from 1 picture."
        )
    assert [best_label(fresh, draw(seed)) for seed, draw in enumerate((rings, flag, face))] == [
        "thing 0",
        "thing 1",
        "thing 2",
    ]


def test_receipt_of_a_refusal_holds(fresh: Assistant) -> None:
    photo = imagenet_photos()[CHAIR][0]
    first = fresh.ask(photo)
    refused = best(first).label
    assert first.rate(good=False).effect == (
        f"“{refused}” is not given for this picture again, nor for copies of it, as long as another label is possible."
    )
    assert refused not in {label.label for label in labels_of(fresh.ask(photo, options={"top": 1000}))}
    offered = {"labels": [refused, "xylophone"]}
    other = fresh.ask(photo, options=offered)
    assert [label.label for label in labels_of(other)] == ["xylophone"]
    other.rate(good=False)
    # No label is left, so they are all given, and a notice says so.
    both = fresh.ask(photo, options=offered)
    assert {label.label for label in labels_of(both)} == {refused, "xylophone"}
    assert "all_labels_refused" in codes(both)


def test_receipt_of_praise_holds(fresh: Assistant) -> None:
    photo = imagenet_photos()[CHAIR][0]
    first = fresh.ask(photo)
    receipt = first.rate(good=True)
    assert receipt.effect == (
        f"“{best(first).label}” is noted as right: a learning cycle is checked with this picture, too."
    )
    (checked,) = task_of(fresh).protected(fresh.feedback.judged_turns(TASK)).values()
    assert [example.feedback_ids for example in checked] == [(receipt.feedback.id,)]
    private = Feedback(fresh.ask(imagenet_photos()[0][0]).turn.id, is_good=True, may_train=False)
    assert fresh.give_feedback(private).effect.endswith("is noted as right.")
    teach(fresh, rings, "target", range(2))
    assert ask(fresh, rings(9)).rate(good=True).effect == "I now know “target” from 3 pictures."


@pytest.mark.parametrize("label", ["?!", "\u200b", "“”", "x" * 201])
def test_useless_label_has_no_receipt(fresh: Assistant, label: str) -> None:
    receipt = fresh.teach(TASK, ImagePart(data=rings(0)), label)
    assert receipt.effect == ""
    assert [notice.code for notice in receipt.notices] == ["not_learned_yet"]


# -- among taught labels only --


def test_taught_labels_alone_can_be_asked(fresh: Assistant) -> None:
    with pytest.raises(InvalidInput, match="no label was taught"):
        _ = fresh.ask(ImagePart(data=rings(0)), options={"taught": True}).parts
    teach(fresh, rings, "target", range(2))
    only = fresh.ask(imagenet_photos()[CHAIR][0], options={"taught": True})
    assert [label.label for label in labels_of(only)] == ["target"]
    assert "unlike_taught" in codes(only)
    teach(fresh, flag, "banner", range(2))
    answer = fresh.ask([ImagePart(data=flag(50)), "Is it a cat or a dog?"], options={"taught": True})
    assert [label.label for label in labels_of(answer)] == ["banner", "target"]
    assert "unlike_taught" not in codes(answer)
    assert answer.details["memory"] == [2]
    assert "“banner”" in answer.text
    with pytest.raises(InvalidInput, match="both"):
        _ = fresh.ask(ImagePart(data=flag(0)), options={"taught": True, "labels": ["a", "b"]}).parts


def test_offered_taught_labels_are_asked_among_themselves(fresh: Assistant) -> None:
    teach(fresh, rings, "target", range(2))
    teach(fresh, flag, "banner", range(2))
    # A photo of neither: ConSE, which knows the words, has no say if all labels on offer are taught.
    photo = imagenet_photos()[CHAIR][0]
    taught = labels_of(fresh.ask(photo, options={"taught": True}))
    offered = labels_of(fresh.ask(photo, options={"labels": ["Banner", "Target"]}))
    assert [label.score for label in offered] == pytest.approx([label.score for label in taught])
