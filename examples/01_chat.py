"""A conversation in a dozen lines: `python examples/01_chat.py`."""

from __future__ import annotations

from smallai_assistant import Assistant


def main() -> None:
    """Asks twice in one session, so the second question may say "it"."""
    with Assistant() as assistant:
        session = assistant.session(user_id="ada")
        for question in ("What is the capital of France?", "How do you say that name in Italian?"):
            print(f"you: {question}")
            print("assistant: ", end="")
            response = session.send(question, task="text-generation", options={"max_tokens": 60})
            for part in response:  # text comes in pieces, as the model makes them
                print(part.text, end="", flush=True)
            print()
            for notice in response.notices:  # a fallback, a cut: nothing degrades silently
                print(f"  note: {notice.text}")
            details = response.details
            print(f"  {details['model']}, {details['n_completion_tokens']} tokens, turn {response.turn.id}")


if __name__ == "__main__":
    main()
