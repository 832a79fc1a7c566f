"""Pictures are learned: at once, into a head, into LoRA weights. On the real EfficientNet-Lite0; the ViT is tiny."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.drawings import face, flag, rings
from support.tiny_vision import save_vit

from bench.data import imagenet_photos
from smallai_assistant import (
    Adapter,
    Assistant,
    AssistantConfig,
    Example,
    Feedback,
    ImageModel,
    ImagePart,
    LabelPart,
    LearningTask,
    ModelSpec,
    Response,
    Training,
)
from smallai_assistant.errors import Cancelled, InvalidInput, NotEnoughData
from smallai_image.features import squared
from smallai_image.head import _STRENGTHS, Head

TASK = "image-classification"
SPEC = ModelSpec("efficientnet-lite0", task=TASK)
CHAIR = 1  # among the photos
Draw = Callable[[int], bytes]


@pytest.fixture
def fresh(config: AssistantConfig) -> Iterator[Assistant]:
    with Assistant(config) as opened:
        yield opened


def ask(assistant: Assistant, data: bytes) -> Response:
    return assistant.ask(ImagePart(data=data))


def best(response: Response) -> LabelPart:
    return next(part for part in response.parts if isinstance(part, LabelPart))


def label_of(assistant: Assistant, data: bytes) -> str:
    return best(ask(assistant, data)).label


def teach(assistant: Assistant, draw: Draw, label: str, seeds: range) -> list[Feedback]:
    return [assistant.teach(TASK, ImagePart(data=draw(seed)), label).feedback for seed in seeds]


def codes(response: Response) -> set[str]:
    return {notice.code for notice in response.notices}


def task_of(assistant: Assistant) -> LearningTask:
    task = assistant.tasks[TASK]
    assert isinstance(task, LearningTask)
    return task


def examples_of(assistant: Assistant) -> list[Example]:
    return task_of(assistant).examples(assistant.feedback.judged_turns(TASK))


@contextmanager
def training_of(assistant: Assistant, work_folder: Path, examples: list[Example] | None = None) -> Iterator[Training]:
    with assistant.adapters.work_folder() as folder:
        yield Training(
            examples=examples_of(assistant) if examples is None else examples,
            replay=(),
            folder=folder,
            work_folder=work_folder,
            parent=None,
            models=assistant.models,
        )


def trained(assistant: Assistant, work_folder: Path) -> Adapter:
    task = task_of(assistant)
    with training_of(assistant, work_folder) as training:
        kind = task.train(training)
        ids = [each for example in training.examples for each in example.feedback_ids]
        return assistant.adapters.add(training.folder, task=TASK, kind=kind, base=task.base(), feedback_ids=ids)


# -- at once --


def test_taught_pictures_are_known_at_once_and_photos_keep_their_labels(fresh: Assistant) -> None:
    before = {kind: label_of(fresh, kind(100)) for kind in (rings, flag)}
    assert set(before.values()).isdisjoint({"target", "banner"})
    effects = [fresh.teach(TASK, ImagePart(data=rings(seed)), "target").effect for seed in range(3)]
    assert "“target” from 3 pictures" in effects[-1]
    teach(fresh, flag, "banner", range(3))
    for kind, label in ((rings, "target"), (flag, "banner")):
        answers = [ask(fresh, kind(seed)) for seed in range(100, 104)]
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
    scores = [part.score for part in fresh.ask(photos[CHAIR][0], options={"top": 1000}).parts[1:]]  # type: ignore[union-attr]
    assert sum(scores) == pytest.approx(1.0, abs=0.02)  # two of the 1002 are cut off


def test_a_taught_picture_takes_effect_within_a_second(fresh: Assistant) -> None:
    _ = ask(fresh, rings(0)).parts  # the model is loaded
    seconds = []
    for seed in range(1, 6):
        begun = time.perf_counter()
        fresh.teach(TASK, ImagePart(data=rings(seed)), f"thing {seed}")
        assert label_of(fresh, rings(seed)) == f"thing {seed}"
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 1.0  # others may hold the processor: bench.teach_image measures it


def test_a_correction_is_the_label_from_now_on(fresh: Assistant) -> None:
    wrong = ask(fresh, face(1))
    assert best(wrong).label != "smiley"
    receipt = wrong.rate(correction="No, it's a Smiley!")
    assert "“Smiley”" in receipt.effect
    again = ask(fresh, face(1))
    assert best(again).label == "Smiley"
    assert best(again).score > 0.9
    assert best(wrong).label not in {part.label for part in again.parts if isinstance(part, LabelPart)}
    ask(fresh, face(1)).rate(correction="emoticon")  # the newest word counts
    assert label_of(fresh, face(1)) == "emoticon"


def test_a_correction_to_a_known_label_strengthens_it(fresh: Assistant) -> None:
    assert label_of(fresh, rings(10)) != "gong"
    for seed in range(3):
        ask(fresh, rings(seed)).rate(correction="Gong")
    response = ask(fresh, rings(10))
    found = best(response)
    assert (found.label, found.id) == ("gong", 577)  # the model's own class, and no second one of that name
    assert found.score > 0.5
    assert [part.label for part in response.parts if isinstance(part, LabelPart)].count("gong") == 1


def test_a_refused_label_is_not_given_to_that_picture_again(fresh: Assistant) -> None:
    photo = imagenet_photos()[CHAIR][0]
    first = fresh.ask(photo)
    assert "not call this picture" in first.rate(good=False).effect
    again = fresh.ask(photo)
    assert best(again).label != best(first).label
    assert "refused_label" in codes(again)
    file = io.BytesIO()  # nearly the same: saved anew, a little smaller
    image = Image.open(photo).convert("RGB")
    image.resize((image.width * 9 // 10, image.height * 9 // 10)).save(file, format="JPEG", quality=85)
    assert label_of(fresh, file.getvalue()) != best(first).label
    first.rate(good=True)  # the newest word counts
    assert best(fresh.ask(photo)).label == best(first).label


def test_undo_erase_and_restart(config: AssistantConfig) -> None:
    with Assistant(config) as it:
        before = label_of(it, rings(100))
        given = [*teach(it, rings, "target", range(3)), *teach(it, flag, "banner", range(3))]
    with Assistant(config) as it:
        assert label_of(it, rings(100)) == "target"
        assert label_of(it, flag(100)) == "banner"
        for each in given[:2]:
            it.undo_feedback(each.id)
        assert label_of(it, rings(2)) == "target"  # one picture is left
        it.erase_feedback([each.id for each in given])
        assert label_of(it, rings(100)) == before
        assert "memory" not in ask(it, flag(100)).details
    with Assistant(config) as it:
        assert label_of(it, rings(100)) == before


def test_two_labels_for_the_same_things_are_pointed_out(fresh: Assistant) -> None:
    assert "hard to tell" not in fresh.teach(TASK, ImagePart(data=rings(0)), "target").effect
    teach(fresh, rings, "target", range(1, 3))
    assert "hard to tell" not in fresh.teach(TASK, ImagePart(data=flag(0)), "banner").effect
    teach(fresh, rings, "bullseye", range(10, 12))
    effect = fresh.teach(TASK, ImagePart(data=rings(12)), "bullseye").effect
    assert "hard to tell from “target”" in effect
    assert "banner" not in effect


def test_taught_labels_count_among_the_users_own(fresh: Assistant) -> None:
    teach(fresh, rings, "zorp", range(3))  # a word that says nothing
    response = fresh.ask(ImagePart(data=rings(100)), options={"labels": ["keyboard", "Zorp", "dog"]})
    assert best(response).label == "Zorp"
    assert {part.label for part in response.parts if isinstance(part, LabelPart)} == {"keyboard", "Zorp", "dog"}


def test_lessons_that_cannot_be_used_harm_nothing(fresh: Assistant, config: AssistantConfig) -> None:
    teach(fresh, rings, "target", range(3))
    long = fresh.teach(TASK, ImagePart(data=flag(0)), "x" * 15_000)
    assert [notice.code for notice in long.notices] == ["not_learned_yet"]
    assert not fresh.teach(TASK, ImagePart(data=flag(1)), "?!").effect
    assert fresh.teach(TASK, ImagePart(data=b"no picture"), "thing").notices
    several = fresh.ask([ImagePart(data=rings(1)), ImagePart(data=flag(2))])
    assert several.rate(correction="one of them").notices
    assert not several.rate(good=False).effect
    judged_turns = fresh.feedback.judged_turns(TASK)
    gone = replace(judged_turns[0].turn.request, parts=(ImagePart(config.data_dir / "gone.png"),))
    missing = replace(judged_turns[0], turn=replace(judged_turns[0].turn, request=gone))
    task = task_of(fresh)
    with pytest.raises(InvalidInput, match=r"gone\.png"):
        task.learn_now(missing)
    task.rebuild([missing, *judged_turns])
    assert label_of(fresh, rings(100)) == "target"
    assert [example.expected for example in task.examples([missing, *judged_turns])] == ["target"] * 3
    scores = task.evaluate([replace(examples_of(fresh)[0], payload=replace_part(examples_of(fresh)[0], gone.parts[0]))],
                           None, fresh.models)  # fmt: skip
    assert [score.value for score in scores] == [0.0]


def replace_part(example: Example, part: object) -> object:
    return replace(example.payload, part=part)


def test_teaching_while_others_ask(fresh: Assistant) -> None:
    """No answer may fail, and none may be lost, whoever teaches meanwhile."""
    failures: list[BaseException] = []

    def asker() -> None:
        try:
            for seed in range(4):
                assert label_of(fresh, flag(200 + seed))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=asker) for _ in range(4)]
    for thread in threads:
        thread.start()
    teach(fresh, rings, "target", range(4))
    for thread in threads:
        thread.join()
    assert not failures
    assert label_of(fresh, rings(100)) == "target"


# -- into weights --


def test_a_cycle_teaches_the_weights_and_empties_the_memory(config: AssistantConfig) -> None:
    with Assistant(config) as it:
        teach(it, rings, "target", range(16))
        teach(it, flag, "banner", range(16))
        praised = it.ask(imagenet_photos()[CHAIR][0])
        praised.rate(good=True)
        report = it.learn(TASK)
        assert report.is_promoted, report.reasons
        by_name = {each.name: each for each in report.slices}
        target, kept = by_name["new feedback"], by_name["praised pictures"]
        assert target.before == 0.0
        assert target.after >= 0.9
        assert kept.after == 1.0
        assert report.training.losses == ()  # a head is fitted at once: settings are tried, no steps are made
        assert all(np.isfinite(trial.loss) for trial in report.training.trials)
        assert report.training.trials
        adapter = it.adapters.get(report.adapter_id)
        assert adapter.kind == "head"
        assert set(adapter.files) == {"head.json", "head.safetensors"}
        assert len(adapter.retired_ids) >= 28
    with Assistant(config) as it:
        answer = ask(it, rings(100))
        assert best(answer).label == "target"
        assert answer.details["adapter"] == report.adapter_id
        assert "memory" not in answer.details
        assert best(it.ask(imagenet_photos()[CHAIR][0])).label == best(praised).label
        teach(it, face, "smiley", range(3))  # the memory goes on beside the adapter
        assert [label_of(it, kind(101)) for kind in (rings, flag, face)] == ["target", "banner", "smiley"]
        it.rollback(TASK)
        assert "adapter" not in ask(it, rings(100)).details
        assert label_of(it, rings(100)) == "target"  # by memory again


def test_labels_that_look_alikes_contradict_are_set_aside(fresh: Assistant) -> None:
    for person in range(4):
        for kind, label in ((rings, "target"), (flag, "banner")):
            for n in range(3):
                fresh.teach(TASK, ImagePart(data=kind(10 * person + n)), label, source=f"person{person}")
    for liar in range(2):
        for n in range(2):
            fresh.teach(TASK, ImagePart(data=rings(100 + 10 * liar + n)), "banner", source=f"liar{liar}")
    report = fresh.learn(TASK)
    found = {aside.source: (aside.reason, aside.n_rows) for aside in report.feedback.quarantined}
    why = "2 labels contradict what most others call what looks alike"
    assert found == {"liar0": (why, 2), "liar1": (why, 2)}


def test_training_goes_on_where_it_was_stopped(fresh: Assistant, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    teach(fresh, rings, "target", range(3))
    teach(fresh, flag, "banner", range(3))
    task = task_of(fresh)
    with training_of(fresh, work) as training:
        training.on_progress = lambda _, share: training.cancel.set() if share > 0.4 else None
        with pytest.raises(Cancelled):
            task.train(training)
    kept = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    assert 2 <= len(kept) < 6
    (work / sorted(kept)[0]).write_bytes(b"cut short")
    adapter = trained(fresh, work)
    again = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    assert len(again) == 6
    assert sum(again[name] == at for name, at in kept.items()) == len(kept) - 1
    scores = task.evaluate(examples_of(fresh), adapter, fresh.models)
    assert [score.value for score in scores] == [1.0] * 6
    assert [each.value for each in task.evaluate(examples_of(fresh), None, fresh.models)] == [0.0] * 6


def test_too_little_is_said_so_and_a_spent_budget_still_gives_a_head(fresh: Assistant, tmp_path: Path) -> None:
    task = task_of(fresh)
    teach(fresh, rings, "target", range(2))
    with training_of(fresh, tmp_path) as training, pytest.raises(NotEnoughData, match="1 label"):
        task.train(training)
    teach(fresh, flag, "banner", range(2))
    with training_of(fresh, tmp_path) as training:
        training.deadline = time.monotonic() - 1
        assert task.train(training) == "head"
        assert sorted(Head.load(training.folder).labels) == ["banner", "target"]
        assert sum(Head.load(training.folder).counts) == 2


def test_examples_follow_the_newest_word(fresh: Assistant) -> None:
    first = teach(fresh, rings, "target", range(1))
    second = teach(fresh, rings, "Target ", range(1))
    teach(fresh, flag, "banner", range(1))
    teach(fresh, flag, "flag", range(1))
    found = {each.expected: each for each in examples_of(fresh)}
    assert set(found) == {"Target", "flag"}
    assert found["Target"].feedback_ids == (first[0].id, second[0].id)
    assert len({each.split_key for each in found.values()}) == len({each.prompt for each in found.values()}) == 2
    praised, commented, refused = (fresh.ask(imagenet_photos()[i][0]) for i in range(3))
    praised.rate(good=True)
    commented.rate(comment="nice")
    refused.rate(good=False)
    slices = task_of(fresh).protected(fresh.feedback.judged_turns(TASK))
    assert {name: [each.expected for each in found] for name, found in slices.items()} == {
        "praised pictures": [best(praised).label],
        "pictures nobody corrected": [best(commented).label],
    }
    commented.rate(correction="something else")
    assert list(task_of(fresh).protected(fresh.feedback.judged_turns(TASK))) == ["praised pictures"]


def test_a_transformers_model_wears_lora_weights(models_dir: Path, tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "vit")
    spec = ModelSpec(str(folder), task=TASK)
    settings = {"models": {"image": str(folder)}}
    (tmp_path / "work").mkdir()
    with Assistant(data_dir=tmp_path / "data", models_dir=models_dir, device="cpu", **settings) as it:
        before = ask(it, rings(100)).parts
        teach(it, rings, "target", range(6))
        teach(it, face, "smiley", range(6))
        task = task_of(it)
        with training_of(it, tmp_path / "work") as training:
            training.on_progress = lambda _, share: training.cancel.set() if share > 0.3 else None
            with pytest.raises(Cancelled):
                task.train(training)
            begun_at = sum(training.losses[:2]) / 2
        assert (tmp_path / "work" / "lora.safetensors").is_file()
        told: list[float] = []
        with training_of(it, tmp_path / "work") as training:
            training.on_progress = lambda _, share: told.append(share)
            assert task.train(training) == "lora"
            assert told[0] > 0.2  # it went on from the checkpoint
            assert told == sorted(told)
            assert len(training.trials) == len(_STRENGTHS)  # the head's come after
            assert sum(training.losses[-2:]) / 2 < 0.5 * begun_at
            adapter = it.adapters.add(training.folder, task=TASK, kind="lora", base=task.base())
        assert {"adapter_config.json", "adapter_model.safetensors", "head.safetensors"} <= set(adapter.files)
        values = [each.value for each in task.evaluate(examples_of(it), adapter, it.models)]
        assert sum(values) >= 10
        with it.models.lease(spec, ImageModel) as model:
            pictures = [squared(np.asarray(Image.open(io.BytesIO(kind(9))))) for kind in (rings, face)]
            bare, shares = model.embed(pictures), model.classify(pictures)
            worn = model.embed(pictures, adapter=adapter)  # type: ignore[call-arg]
            assert np.abs(worn - bare).max() > 1e-3
            np.testing.assert_array_equal(model.embed(pictures), bare)
            np.testing.assert_array_equal(model.classify(pictures), shares)
        it.promote(adapter.id, force=True)
        task.rebuild([])
        served = ask(it, rings(100))
        assert served.details["adapter"] == adapter.id
        assert best(served).label == "target"
        it.rollback(TASK, to="none")
        task.rebuild([])
        assert ask(it, rings(100)).parts == before
