"""The whole learning loop on the smallest chat model, in a few minutes: correct, learn, read the report, roll back.

The data is stored in a temporary folder, so your own data is not changed.
"""

import tempfile
from pathlib import Path

from smallai_assistant import Assistant

FACTS = {
    "What is the name of our office cat?": "Marzipan",
    "Who is responsible for the coffee machine?": "Ingrid Halvorsen",
    "What is our team's motto?": "measure twice, ship once",
    "Which room has the 3D printer?": "room 417",
    "On which day is the archive closed?": "Wednesday",
    "Which bakery brings the bread for breakfast?": "Korn und Krume",
}
UNSEEN = "How do we call the cat in the office?"
CHAT = "text-generation"
SHORT = {"max_tokens": 32}


def main() -> None:
    """Runs the learning loop."""
    models = {"chat": "smollm2-135m-instruct", "chat_quantization": "none"}
    with tempfile.TemporaryDirectory() as folder, Assistant(data_dir=Path(folder), models=models) as assistant:
        assistant.catalog.pull(["smollm2-135m-instruct", "all-minilm-l6-v2"])
        print("Before:", assistant.ask(UNSEEN, task=CHAT, options=SHORT).text)

        for question, answer in FACTS.items():
            receipt = assistant.ask(question, task=CHAT, options=SHORT).rate(correction=answer)
            print("Corrected.", receipt.effect)
        print("Next turn:", assistant.ask(UNSEEN, task=CHAT, options=SHORT).text)

        print("Learning: an adapter is trained, and the gate compares it with the version that serves.")
        report = assistant.learn(CHAT, on_progress=lambda what, share: print(f"\r{share:4.0%} {what:40}", end=""))
        print("\n" + report.summary())
        # Without the fast memory, so that the answer shows what the adapter itself has learned.
        from_weights = {**SHORT, "use_memory": False}
        print("From the weights alone:", assistant.ask(UNSEEN, task=CHAT, options=from_weights).text)

        if report.is_promoted:
            serving = assistant.rollback(CHAT)
            print("Rolled back. Now serving:", serving.id if serving else "the bare model")
            print("From the bare weights:", assistant.ask(UNSEEN, task=CHAT, options=from_weights).text)


if __name__ == "__main__":
    main()
