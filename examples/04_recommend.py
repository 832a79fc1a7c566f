"""Recommends films: `python examples/04_recommend.py [wish]`.

The films and the choices of users are stored in a temporary folder, so your own items are not changed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from smallai_assistant import Assistant, Interaction, Item, ItemPart

FILMS = [
    Item("alien", "Alien", "the crew of a spaceship meets a deadly creature"),
    Item("thing", "The Thing", "a shape-shifting creature hunts researchers in Antarctica"),
    Item("predator", "Predator", "soldiers in the jungle are hunted by something from space"),
    Item("heat", "Heat", "a detective hunts a gang of bank robbers in Los Angeles"),
    Item("ronin", "Ronin", "former spies chase each other for a mysterious briefcase"),
    Item("notting", "Notting Hill", "a bookseller falls in love with a film star"),
    Item("amelie", "Amélie", "a shy waitress in Paris plays matchmaker and finds love"),
    Item("paddington", "Paddington", "a bear from Peru finds a family in London"),
    Item(
        "moon", "Moon", "alone on the Moon, a miner meets himself"
    ),  # nobody has seen it, so only its text can recommend it
]
SEEN = {
    "ada": ["alien", "predator"],
    "bob": ["alien", "thing", "predator"],
    "cleo": ["notting", "amelie", "paddington"],
    "dev": ["heat", "ronin", "alien"],
}


def main(wish: str) -> None:
    """Recommends to a known user, to a stranger, and by a wish in words."""
    with tempfile.TemporaryDirectory() as folder, Assistant(data_dir=Path(folder)) as assistant:
        assistant.items.add_items(FILMS)
        assistant.items.add_interactions([Interaction(user, film) for user, films in SEEN.items() for film in films])
        for user, request in (("ada", "What should I watch next?"), ("stranger", "What is good?"), ("ada", wish)):
            response = assistant.ask(request, task="recommendation", user_id=user, options={"k": 3})
            print(f"{user}: {request}")
            for part in response:
                if isinstance(part, ItemPart):
                    print(f"  {part.title:14} {part.why}")
            for notice in response.notices:  # such as that nothing is known about a stranger
                print(f"  note: {notice.text}")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "a love story")
