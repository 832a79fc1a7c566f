"""A conversation in a dozen lines: `python examples/01_chat.py`."""

from __future__ import annotations

from smallai_assistant import Assistant


def main() -> None:
    """Asks two questions in one session, so the second one can refer to the first."""
    with Assistant() as assistant:
        session = assistant.session(user_id="ada")
        for question in ("What is the capital of France?", "How do you say that name in Italian?"):
            print(f"you: {question}")
            print("assistant: ", end="")
            response = session.send(question, task="text-generation", options={"max_tokens": 60})
            for part in response:  # text comes in pieces, while the model generates it
                print(part.text, end="", flush=True)
            print()
            for notice in response.notices:  # such as a fallback to the CPU, or a cut answer
                print(f"  note: {notice.text}")
            details = response.details
            print(f"  {details['model']}, {details['n_completion_tokens']} tokens, turn {response.turn.id}")


if __name__ == "__main__":
    main()
