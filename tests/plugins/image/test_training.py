"""Pictures are learned into weights: a head on the real EfficientNet-Lite0, LoRA weights on a tiny ViT."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.drawings import face, flag, rings
from support.pictures import CHAIR, TASK, ask, best, best_label, examples_of, task_of, teach, training_of
from support.tiny_vision import save_vit

from bench.data import imagenet_photos
from smallai_assistant import Adapter, Assistant, AssistantConfig, ImageModel, ImagePart, ModelSpec
from smallai_assistant.errors import Cancelled, NotEnoughData
from smallai_image.features import pad_to_square
from smallai_image.head import STRENGTHS, Head


def trained(assistant: Assistant, work_folder: Path) -> Adapter:
    """Trains an adapter and adds it to the registry."""
    task = task_of(assistant)
    with training_of(assistant, work_folder) as training:
        kind = task.train(training)
        ids = [feedback_id for example in training.examples for feedback_id in example.feedback_ids]
        return assistant.adapters.add(training.folder, task=TASK, kind=kind, base=task.base(), feedback_ids=ids)


def test_cycle_trains_a_head_and_empties_memory(config: AssistantConfig) -> None:
    with Assistant(config) as assistant:
        teach(assistant, rings, "target", range(16))
        teach(assistant, flag, "banner", range(16))
        praised = assistant.ask(imagenet_photos()[CHAIR][0])
        praised.rate(good=True)
        report = assistant.learn(TASK)
        assert report.is_promoted, report.reasons
        by_name = {found.name: found for found in report.slices}
        target, kept = by_name["new feedback"], by_name["praised pictures"]
        assert target.before == 0.0
        assert target.after >= 0.9
        assert kept.after == 1.0
        assert report.training.losses == ()  # a head has no training steps, only settings that are tried
        assert report.training.trials
        assert all(np.isfinite(trial.loss) for trial in report.training.trials)
        adapter = assistant.adapters.get(report.adapter_id)
        assert adapter.kind == "head"
        assert set(adapter.files) == {"head.json", "head.safetensors"}
        assert len(adapter.retired_ids) >= 28
    with Assistant(config) as assistant:
        answer = ask(assistant, rings(100))
        assert best(answer).label == "target"
        assert answer.details["adapter"] == report.adapter_id
        assert "memory" not in answer.details
        assert best(assistant.ask(imagenet_photos()[CHAIR][0])).label == best(praised).label
        teach(assistant, face, "smiley", range(3))  # the memory learns beside the adapter
        labels = [best_label(assistant, draw(101)) for draw in (rings, flag, face)]
        assert labels == ["target", "banner", "smiley"]
        assistant.rollback(TASK)
        assert "adapter" not in ask(assistant, rings(100)).details
        assert best_label(assistant, rings(100)) == "target"  # by the memory again


def test_contradicted_labels_of_similar_pictures_are_quarantined(fresh: Assistant) -> None:
    for person in range(4):
        for draw, label in ((rings, "target"), (flag, "banner")):
            for n in range(3):
                fresh.teach(TASK, ImagePart(data=draw(10 * person + n)), label, source=f"person{person}")
    for liar in range(2):
        for n in range(2):
            fresh.teach(TASK, ImagePart(data=rings(100 + 10 * liar + n)), "banner", source=f"liar{liar}")
    report = fresh.learn(TASK)
    assert {(aside.source, aside.n_rows) for aside in report.feedback.quarantined} == {("liar0", 2), ("liar1", 2)}
    assert all("2 labels contradict" in aside.reason for aside in report.feedback.quarantined)


def test_training_resumes_from_kept_vectors(fresh: Assistant, tmp_path: Path) -> None:
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
    assert sum(again[name] == at for name, at in kept.items()) == len(kept) - 1  # only the damaged one is new
    scores = task.evaluate(examples_of(fresh), adapter, fresh.models)
    assert [score.value for score in scores] == [1.0] * 6
    assert [score.value for score in task.evaluate(examples_of(fresh), None, fresh.models)] == [0.0] * 6


def test_one_label_is_not_enough(fresh: Assistant, tmp_path: Path) -> None:
    teach(fresh, rings, "target", range(2))
    with training_of(fresh, tmp_path) as training, pytest.raises(NotEnoughData, match="1 label"):
        task_of(fresh).train(training)


def test_spent_budget_still_gives_a_head(fresh: Assistant, tmp_path: Path) -> None:
    teach(fresh, rings, "target", range(2))
    teach(fresh, flag, "banner", range(2))
    with training_of(fresh, tmp_path) as training:
        training.deadline = float("-inf")
        assert task_of(fresh).train(training) == "head"
        assert sorted(Head.load(training.folder).labels) == ["banner", "target"]
        assert sum(Head.load(training.folder).counts) == 2


def test_examples_use_the_newest_feedback(fresh: Assistant) -> None:
    first = teach(fresh, rings, "target", range(1))
    second = teach(fresh, rings, "Target ", range(1))
    teach(fresh, flag, "banner", range(1))
    teach(fresh, flag, "flag", range(1))
    found = {example.expected: example for example in examples_of(fresh)}
    assert set(found) == {"Target", "flag"}
    assert found["Target"].feedback_ids == (first[0].id, second[0].id)
    prompts = {example.prompt for example in found.values()}
    assert len({example.split_key for example in found.values()}) == len(prompts) == 2


def test_praised_and_commented_pictures_are_protected(fresh: Assistant) -> None:
    praised, commented, refused = (fresh.ask(imagenet_photos()[i][0]) for i in range(3))
    praised.rate(good=True)
    commented.rate(comment="nice")
    refused.rate(good=False)
    slices = task_of(fresh).protected(fresh.feedback.judged_turns(TASK))
    assert {name: [example.expected for example in found] for name, found in slices.items()} == {
        "praised pictures": [best(praised).label],
        "pictures nobody corrected": [best(commented).label],
    }
    commented.rate(correction="something else")
    assert list(task_of(fresh).protected(fresh.feedback.judged_turns(TASK))) == ["praised pictures"]


def test_transformers_model_is_trained_with_lora(models_dir: Path, tmp_path: Path) -> None:
    folder = save_vit(tmp_path / "vit")
    spec = ModelSpec(str(folder), task=TASK)
    settings = {"models": {"image": str(folder)}}
    (tmp_path / "work").mkdir()
    with Assistant(data_dir=tmp_path / "data", models_dir=models_dir, device="cpu", **settings) as assistant:
        before = ask(assistant, rings(100)).parts
        teach(assistant, rings, "target", range(6))
        teach(assistant, face, "smiley", range(6))
        task = task_of(assistant)
        assert not task.is_cheap_to_train
        with training_of(assistant, tmp_path / "work") as training:
            training.on_progress = lambda _, share: training.cancel.set() if share > 0.3 else None
            with pytest.raises(Cancelled):
                task.train(training)
            first_loss = sum(training.losses[:2]) / 2
        assert (tmp_path / "work" / "lora.safetensors").is_file()
        told: list[float] = []
        with training_of(assistant, tmp_path / "work") as training:
            training.on_progress = lambda _, share: told.append(share)
            assert task.train(training) == "lora"
            assert told[0] > 0.2  # it resumed from the checkpoint
            assert told == sorted(told)
            assert len(training.trials) == len(STRENGTHS)
            assert sum(training.losses[-2:]) / 2 < 0.5 * first_loss
            adapter = assistant.adapters.add(training.folder, task=TASK, kind="lora", base=task.base())
        assert {"adapter_config.json", "adapter_model.safetensors", "head.safetensors"} <= set(adapter.files)
        values = [score.value for score in task.evaluate(examples_of(assistant), adapter, assistant.models)]
        assert sum(values) >= 10
        with assistant.models.lease(spec, ImageModel) as model:
            pictures = [pad_to_square(np.asarray(Image.open(io.BytesIO(draw(9))))) for draw in (rings, face)]
            bare, probabilities = model.embed(pictures), model.classify(pictures)
            adapted = model.embed(pictures, adapter=adapter)  # type: ignore[call-arg]
            assert np.abs(adapted - bare).max() > 1e-3
            # The adapter is off again, and never changes the model's own classes.
            np.testing.assert_array_equal(model.embed(pictures), bare)
            np.testing.assert_array_equal(model.classify(pictures), probabilities)
        assistant.promote(adapter.id, force=True)
        task.rebuild([])
        served = ask(assistant, rings(100))
        assert served.details["adapter"] == adapter.id
        assert best(served).label == "target"
        assistant.rollback(TASK, to="none")
        task.rebuild([])
        assert ask(assistant, rings(100)).parts == before
