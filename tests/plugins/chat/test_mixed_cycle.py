"""A cycle over corrections and ratings on a real small model: what corrections taught does not wait for ratings."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.dialogue import TASK, ask

from smallai_assistant import Assistant, AssistantConfig, LearningTask
from smallai_assistant.config import ModelsConfig
from smallai_chat.examples import CORRECTIONS, RATINGS, Fact, held_out_example

# Answers that no model knows, and the same questions in words that were not trained.
FACTS = (
    ("Which room has the 3D printer?", "room 417", "In which room is the 3D printer?"),
    ("Who runs the bakery?", "Ottokar Wim", "Who is it that runs the bakery?"),
    ("What is the guest password?", "tulip99", "What's the guest password, please?"),
    ("When does the choir meet?", "Tuesday at 19:40", "At what time does the choir meet?"),
    ("Where is the spare key?", "under the blue pot", "Where is the spare key, please?"),
    ("What is the name of our boat?", "Kestrel", "Our boat: what is its name?"),
    ("Which bus goes to the harbour?", "bus 88", "Which bus goes to the harbour, please?"),
    ("Who teaches the drawing class?", "Ilka Brandt", "Who is it that teaches the drawing class?"),
)
TOPICS = "rain snow tea glass salt music paper bread wind gold honey cotton chess steel sleep coal"


@pytest.mark.slow
def test_corrections_do_not_wait_for_ratings(models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The 160 questions of general knowledge take most of the time, and this test is about the rest.
    monkeypatch.setattr("smallai_chat.examples.canaries", lambda: ())
    models = ModelsConfig(chat="smollm2-135m-instruct", chat_quantization="none")
    config = AssistantConfig(data_dir=tmp_path / "data", models_dir=models_dir, device="cpu", models=models)
    with Assistant(config) as assistant:
        for question, answer, _ in FACTS:
            assistant.teach(TASK, question, answer)
        for number, topic in enumerate(TOPICS.split()):
            stop = (". ",) if number % 2 else ()
            response = ask(assistant, f"What is {topic}?", max_tokens=12, use_memory=False, stop=stop)
            response.rate(good=number % 2 == 1)
        report = assistant.learn(TASK)
        assert report.is_promoted, report.summary()
        verdicts = {component.name: component.verdict for component in report.components}
        assert verdicts[CORRECTIONS] == "approved", report.summary()
        assert RATINGS in verdicts  # these may be too few for their gate; then they wait alone
        champion = assistant.adapters.champion(TASK)
        assert champion is not None
        assert {component.name for component in champion.components} == {
            component.name for component in report.components if component.is_included
        }
        task = assistant.tasks[TASK]
        assert isinstance(task, LearningTask)
        asked = [held_out_example(other, answer, Fact(other, answer)) for _, answer, other in FACTS]
        scores = task.evaluate(asked, champion, assistant.models)
        assert sum(score.value for score in scores) >= 2, [score.answer for score in scores]
        assert {score.component for score in scores} <= {CORRECTIONS, RATINGS, ""}
