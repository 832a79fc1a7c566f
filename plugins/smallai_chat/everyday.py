"""Everyday questions: what the base answers to them is kept while corrections are learned."""

from __future__ import annotations

EVERYDAY = (
    "How do I boil an egg?",
    "What is photosynthesis?",
    "Write one sentence about the sea.",
    "How can I sleep better?",
    "Which instrument has 88 keys?",
    "What does a librarian do?",
    "Tell me a joke.",
    "What is a database?",
    "How do I remove a coffee stain from a shirt?",
    "What is the name of the largest ocean?",
    "Who wrote Hamlet?",
    "What do cats eat?",
    "When does summer begin?",
    "Where can I buy fresh bread?",
    "How many hours does a day have?",
    "What is a good password?",
    "Name three fruits.",
    "Why is the sky blue?",
    "What time do shops usually open?",
    "Who invented the telephone?",
    "Which room of a house is for cooking?",
    "What is the difference between a lake and a river?",
    "How do I write a thank-you note?",
    "What is the meaning of the word brave?",
)
