"""The kit finds every fault of a LearningTask, and reports no fault that does not exist."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support import by_heart
from support.by_heart import Parrot, phrases_of, read
from support.scripted import ScriptedPlugin
from support.testing_cases import be_impatient, failed, finding, write_packages

from smallai_assistant import (
    Adapter,
    Assistant,
    Details,
    Example,
    JudgedTurn,
    ModelRuntime,
    Request,
    Score,
    TextPart,
    Training,
    errors,
)
from smallai_assistant.testing import PluginReport, check_plugin
from smallai_assistant.testing.__main__ import main
from smallai_assistant.types import ImagePart, new_id

_impatient = pytest.fixture(autouse=True)(be_impatient)
written = pytest.fixture(write_packages)

PHRASES = [("hello", "good day"), ("bye", "farewell"), ("hello", "good morning"), ("thanks", "you are welcome")]


def report_on(**broken: Any) -> PluginReport:
    """The report, with training, on a parrot some of whose methods are replaced."""
    task = type("BrokenParrot", (Parrot,), broken)()
    return check_plugin(ScriptedPlugin(task), corrections={"parrot": PHRASES}, train=True)


def test_good_learner_has_no_problem() -> None:
    report = report_on()
    assert report.is_ok, report
    skipped = {finding.check for finding in report.findings if finding.status != "ok"}
    assert skipped == {"light import", "imports of the host", "light start"}, "an object has no module"
    assert {"knows at once", "rebuild", "forgets", "fast memory is off", "serves the adapter", "erase"} <= {
        finding.check for finding in report.findings
    }


def test_checks_without_corrections_are_skipped() -> None:
    report = check_plugin(ScriptedPlugin(Parrot()), train=True)
    assert report.is_ok, report
    assert finding(report, "learn_now").status == "skipped"
    assert 'corrections={"parrot": [' in finding(report, "learn_now").hint
    assert {finding(report, check).status for check in ("quick rebuild", "base", "odd feedback", "erase")} == {"ok"}
    assert not {"rebuild", "evaluate", "train"} & {finding.check for finding in report.findings}


def test_training_is_skipped_by_default() -> None:
    report = check_plugin(ScriptedPlugin(Parrot()), corrections={"parrot": PHRASES})
    assert report.is_ok, report
    assert finding(report, "train").status == "skipped"
    assert finding(report, "train").hint == "give train=True"
    assert "serves the adapter" not in {finding.check for finding in report.findings}


@pytest.mark.parametrize(
    ("name", "correction", "check", "text"),
    [
        ("parrott", ("a", "b"), "corrections", "there is no such LearningTask"),
        ("parrot", ("a", " "), "learn_now", "the correction is empty"),
        ("parrot", (ImagePart(data=b"x"), "b"), "learn_now", "a correction is of image, which it does not accept"),
    ],
)
def test_correction_that_cannot_be_taught(name: str, correction: Any, check: str, text: str) -> None:
    report = check_plugin(ScriptedPlugin(Parrot()), corrections={name: [correction]})
    assert text in failed(report)[check], report


# -- declarations and the fast memory --


def slow(self: Parrot, judged_turns: Sequence[JudgedTurn]) -> None:
    time.sleep(0.25)
    Parrot.rebuild(self, judged_turns)


def only_text(self: Parrot, judged_turns: Sequence[JudgedTurn]) -> None:
    self.memory = {
        judged_turn.turn.request.text: judged_turn.feedback.correction.strip() for judged_turn in judged_turns
    }  # type: ignore[union-attr]


def keeps_none(self: Parrot, judged_turns: Sequence[JudgedTurn]) -> None:
    self.memory = {judged_turn.turn.request.text: judged_turn.feedback.correction for judged_turn in judged_turns}  # type: ignore[misc]


def newest_first(self: Parrot, judged_turns: Sequence[JudgedTurn]) -> None:
    self.memory = phrases_of(judged_turns[::-1])


def learns_all(self: Parrot, judged_turn: JudgedTurn) -> str:
    return Parrot.learn_now(self, judged_turn) + judged_turn.feedback.correction.strip()  # type: ignore[union-attr]


def examples_of_all(self: Parrot, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
    assert all(judged_turn.feedback.correction.strip() for judged_turn in judged_turns)  # type: ignore[union-attr]
    return Parrot.examples(self, judged_turns)


@pytest.mark.parametrize(
    ("broken", "check", "text"),
    [
        ({"primary_metric": ""}, "primary_metric", "it is ''"),
        ({"min_examples": 0}, "min_examples", "it is 0"),
        ({"rebuild": slow}, "quick rebuild", "rebuild([]) took 0.2"),
        ({"base": lambda self: {"files": ("a",)}}, "base", "it comes back from JSON in another form"),
        ({"base": lambda self: {}}, "base", "it is empty"),
        ({"base": lambda self: {"id": new_id()}}, "base", "it changes"),
        ({"learn_now": learns_all}, "odd feedback", "AttributeError"),
        ({"rebuild": only_text}, "odd feedback", "AttributeError"),
        ({"rebuild": keeps_none}, "odd feedback", "NoneType"),
        ({"examples": examples_of_all}, "odd feedback", "AttributeError"),
        ({"learn_now": lambda self, judged_turn: None}, "learn_now", "it returns None"),
        ({"rebuild": newest_first}, "rebuild", "differ from those after learn_now"),
        ({"rebuild": lambda self, judged_turns: None}, "forgets", "differ from those before it was taught"),
        ({"forget": lambda self, feedback, turn: 1 / 0}, "erase", "ZeroDivisionError"),
    ],
)
def test_faults_of_the_fast_memory_are_found(broken: dict[str, Any], check: str, text: str) -> None:
    report = report_on(**broken)
    assert text in failed(report)[check], report
    assert set(failed(report)) - {"serves the adapter"} == {check}, (
        "a base that changes also keeps the adapter from serving"
    )


def test_unused_fast_memory_is_a_warning() -> None:
    def run(self: Parrot, request: Request, models: ModelRuntime) -> Iterator[TextPart | Details]:
        adapter = self.context.adapters.champion(self.name)
        yield TextPart(read(adapter).get(request.message.text, "I do not know."))
        yield Details({"adapter": adapter.id if adapter else ""})

    report = report_on(run=run)
    assert report.is_ok, report
    assert finding(report, "knows at once").status == "warning"
    assert finding(report, "knows at once").text == "it answers 3 of 3 corrected messages as before"


def test_learn_now_may_raise_an_assistant_error() -> None:
    def learn_now(self: Parrot, judged_turn: JudgedTurn) -> str:
        if not judged_turn.feedback.correction:
            raise errors.InvalidInput("nothing to learn")
        return Parrot.learn_now(self, judged_turn)

    assert report_on(learn_now=learn_now).is_ok


def test_random_answers_are_not_compared() -> None:
    def run(self: Parrot, request: Request, models: ModelRuntime) -> Iterator[TextPart]:
        yield TextPart(new_id())

    report = report_on(run=run)
    assert {finding(report, check).status for check in ("rebuild", "forgets")} == {"skipped"}


# -- examples and scores --


def examples_with(**changed: Any) -> Callable[[Parrot, Sequence[JudgedTurn]], list[Example]]:
    return lambda self, judged_turns: [replace(example, **changed) for example in Parrot.examples(self, judged_turns)]


def scores_of(make: Callable[[int], Any]) -> Callable[..., list[Any]]:
    return lambda self, examples, adapter, models: [make(n) for n, _ in enumerate(examples)]


def remembers(self: Parrot, examples: Sequence[Example], adapter: Adapter | None, models: Any) -> list[Score]:
    said = read(adapter) | self.memory
    return [Score(float(said.get(example.prompt) == example.expected)) for example in examples]


def taught_again(self: Parrot, judged_turns: Sequence[JudgedTurn]) -> dict[str, list[Example]]:
    return {"manners": self.examples(judged_turns)[:1]}


def labelled_with(make: Callable[[int], Any]) -> Callable[[Parrot, Sequence[JudgedTurn]], dict[str, Any]]:
    return lambda self, judged_turns: {turn.feedback.id: make(n) for n, turn in enumerate(judged_turns)}


def axis(size: int, *, length: float = 1.0) -> npt.NDArray[np.float32]:
    vector = np.zeros(size, np.float32)
    vector[0] = length
    return vector


def test_labels_with_vectors_are_accepted() -> None:
    assert report_on(labelled=labelled_with(lambda n: ("a", axis(4)))).is_ok


@pytest.mark.parametrize(
    ("broken", "check", "text"),
    [
        ({"examples": lambda self, judged_turns: []}, "learning examples", "4 corrections give no example"),
        (
            {"examples": lambda self, judged_turns: ["x" for _ in judged_turns]},
            "learning examples",
            "'x' is not an Example",
        ),
        ({"examples": examples_with(id="same")}, "learning examples", "two examples have the id 'same'"),
        ({"examples": examples_with(prompt=" ")}, "learning examples", "the prompt of"),
        ({"examples": examples_with(split_key="")}, "learning examples", "the split_key of"),
        ({"examples": examples_with(weight=0.0)}, "learning examples", "not in (0, 1]"),
        ({"examples": examples_with(feedback_ids=())}, "learning examples", "not those of the feedback"),
        ({"examples": examples_with(feedback_ids=("gone",))}, "learning examples", "not those of the feedback"),
        (
            {
                "examples": lambda self, judged_turns: [
                    replace(e, id=new_id()) for e in Parrot.examples(self, judged_turns)
                ]
            },
            "learning examples",
            "the ids differ each time",
        ),
        ({"protected": lambda self, judged_turns: []}, "protected", "it returns a list"),
        ({"protected": lambda self, judged_turns: {"manners": [1]}}, "protected", "manners: 1 is not an Example"),
        ({"protected": taught_again}, "protected", "is trained on"),
        ({"labelled": lambda self, judged_turns: []}, "labelled", "it returns a list"),
        (
            {"labelled": lambda self, judged_turns: {"x": ("a", axis(4))}},
            "labelled",
            "'x' is not the id of the feedback",
        ),
        ({"labelled": labelled_with(lambda n: axis(4))}, "labelled", "is not a label and a vector"),
        ({"labelled": labelled_with(lambda n: ("a", axis(4, length=2.0)))}, "labelled", "and length 2"),
        ({"labelled": labelled_with(lambda n: ("a", [1.0, 0.0]))}, "labelled", "a vector has dtype float64"),
        ({"labelled": labelled_with(lambda n: ("a", axis(4 + n % 2)))}, "labelled", "the vectors have several shapes"),
        ({"evaluate": lambda self, *_: []}, "evaluate", "[] for 4 examples"),
        ({"evaluate": lambda self, *_: [Score(1.0)] * 4}, "evaluate", "4 scores for no example"),
        ({"evaluate": scores_of(lambda n: 1.0)}, "evaluate", "1.0 is not a Score"),
        ({"evaluate": scores_of(lambda n: Score(100.0))}, "evaluate", "100.0 is not a number in [0, 1]"),
        ({"evaluate": scores_of(lambda n: Score(float("nan")))}, "evaluate", "nan is not a number"),
        ({"evaluate": scores_of(lambda n: Score(True))}, "evaluate", "True is not a number"),
        ({"evaluate": remembers}, "fast memory is off", "3 of 4 scores change with what rebuild was given"),
    ],
)
def test_faults_of_the_evaluation_are_found(broken: dict[str, Any], check: str, text: str) -> None:
    report = report_on(**broken)
    assert text in failed(report)[check], report
    assert set(failed(report)) == {check}, report


def test_random_scores_are_not_compared() -> None:
    import itertools

    clock = itertools.count()
    report = report_on(evaluate=scores_of(lambda n: Score(next(clock) % 7 / 7)))
    assert finding(report, "fast memory is off").status == "skipped", report


# -- training --


def deaf(self: Parrot, training: Training) -> str:
    (training.folder / "phrases.json").write_text("{}")
    return "phrases"


def late(self: Parrot, training: Training) -> str:
    training.yield_to_serving()
    if not training.is_out_of_time:
        return deaf(self, training)
    return "phrases"


def elsewhere(self: Parrot, training: Training) -> str:
    (self.context.data_dir.parents[1] / "mine.json").write_text("{}")
    (training.work_folder / "checkpoint.json").write_text("{}")
    return Parrot.train(self, training)


def poisoned(self: Parrot, training: Training) -> str:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"x": np.full(3, np.nan, np.float32)}, training.folder / "x.safetensors")
    return Parrot.train(self, training)


def in_a_component(self: Parrot, judged_turns: Sequence[JudgedTurn]) -> list[Example]:
    return [replace(example, component="words") for example in Parrot.examples(self, judged_turns)]


def silent(self: Parrot, request: Request, models: ModelRuntime) -> Iterator[TextPart]:
    for item in Parrot.run(self, request, models):
        if isinstance(item, TextPart):
            yield item


def stuck(self: Parrot, request: Request, models: ModelRuntime) -> Iterator[TextPart | Details]:
    for item in Parrot.run(self, request, models):
        if isinstance(item, Details):
            self.seen = item.values["adapter"]
        yield item
    yield Details({"adapter": getattr(self, "seen", None)})


def without_adapter(self: Parrot, examples: Sequence[Example], adapter: Adapter | None, models: Any) -> list[Score]:
    return Parrot.evaluate(self, examples, adapter, models) if adapter is None else []


@pytest.mark.parametrize(
    ("broken", "check", "text"),
    [
        ({"train": lambda self, training: None}, "train", "it returns None, not the adapter's kind"),
        ({"train": lambda self, training: "phrases"}, "train", "it wrote no file"),
        ({"train": lambda self, training: 1 / 0}, "train", "ZeroDivisionError"),
        ({"train": poisoned}, "train", "AdapterMismatch"),
        ({"examples": in_a_component}, "train", "it wrote no file into the folder of a component: words"),
        ({"train": deaf}, "cancel of training", "it trained to the end"),
        ({"train": late}, "training out of time", "it wrote no file"),
        ({"train": elsewhere}, "writes", "mine.json"),
        ({"evaluate": without_adapter}, "evaluate the adapter", "[] for 4 examples"),
        ({"run": silent}, "serves the adapter", "after the promotion the answer's adapter is None"),
        ({"run": stuck}, "serves the adapter", "after the rollback"),
    ],
)
def test_faults_of_the_training_are_found(broken: dict[str, Any], check: str, text: str) -> None:
    report = report_on(**broken)
    assert text in failed(report)[check], report
    assert set(failed(report)) == {check}, report
    assert "," not in failed(report).get("writes", ""), "the folders of the training are its own"


def test_too_few_corrections_are_not_a_fault() -> None:
    def train(self: Parrot, training: Training) -> str:
        raise errors.NotEnoughData(f"{len(training.examples)} phrases")

    report = report_on(train=train)
    assert report.is_ok
    assert finding(report, "train").text == "too few corrections: 4 phrases"


# -- erasing, starting, the command --


def test_what_was_taught_is_erased(tmp_path: Path) -> None:
    with Assistant(data_dir=tmp_path / "data", plugins=[ScriptedPlugin(Parrot())]) as assistant:
        assistant.teach("parrot", "before", "it was known")
    plugin = ScriptedPlugin(Parrot())
    report = check_plugin(plugin, corrections={"parrot": PHRASES}, data_dir=tmp_path / "data", train=True)
    assert report.is_ok, report
    with Assistant(data_dir=tmp_path / "data", plugins=[ScriptedPlugin(Parrot())]) as assistant:
        assert [judged_turn.feedback.correction for judged_turn in assistant.feedback.judged_turns("parrot")] == [
            "it was known"
        ]
        assert assistant.adapters.versions() == []
        assert assistant.adapters.champion_id("parrot") is None
        assert assistant.ask("before", task="parrot").text == "it was known"
        assert assistant.ask("hello", task="parrot").text == "I do not know."
    assert not [path for path in (tmp_path / "data").iterdir() if path.name.startswith("check-")]


SOURCE = Path(by_heart.__file__).read_text()
LIGHT = "        self.memory = phrases_of(judged_turns)"
HEAVY = f"{LIGHT}\n        if judged_turns:\n            import llama_cpp"


@pytest.mark.parametrize(("rebuild", "text"), [(LIGHT, ""), (HEAVY, "every start would load llama_cpp")])
def test_heavy_start_is_found(written: Callable[..., str], tmp_path: Path, rebuild: str, text: str) -> None:
    """The library is imported only if there is feedback: a start without feedback would not show it."""
    (tmp_path / "llama_cpp.py").touch()
    report = check_plugin(written(__init__=SOURCE.replace(LIGHT, rebuild)), corrections={"parrot": PHRASES})
    assert finding(report, "light start").text == text, report
    assert report.is_ok is not bool(text)


def test_command_teaches_and_trains(written: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    package = written(__init__=SOURCE)
    command = [package, "--task", "parrot", "--say", "hello", "--correction", "good day"]
    assert main([*command, "--train"]) == 0
    out = capsys.readouterr().out
    assert "✓ parrot: forgets" in out
    assert "✓ parrot: serves the adapter" in out
    with pytest.raises(SystemExit) as caught:
        main([package, "--correction", "good day"])
    assert caught.value.code == 2
