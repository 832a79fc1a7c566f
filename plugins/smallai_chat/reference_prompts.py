"""Everyday questions that no correction is about.

Training holds the model to the base's answers on the reference prompts (KL to the reference model). The held-out
questions at the end are only evaluated, so that a loss of general ability shows in them.
"""

from __future__ import annotations

import random

# Many begin with the same words as questions that people correct ("Which room ..."): leaks appear there first.
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
    "Who wrote Don Quixote?",
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
    "Who discovered penicillin?",
    "Who was the last queen of Egypt?",
    "Who plays the main part in a concert?",
    "Who should I call when a pipe bursts?",
    "Who looks after animals in a zoo?",
    "Who is known for the theory of relativity?",
    "Which animal is the fastest on land?",
    "Which metal is used for wires?",
    "Which country has the most lakes?",
    "Which fruit is yellow and curved?",
    "Which month comes after March?",
    "Which sport is played with a racket?",
    "Which season is best for skiing?",
    "Which tool do I need to drive in a nail?",
    "Where is the Eiffel Tower?",
    "Where does honey come from?",
    "Where do I put my luggage on a train?",
    "Where can I learn to swim?",
    "Where does the Danube begin?",
    "Where is Mount Everest?",
    "When was the first moon landing?",
    "When should I plant tomatoes?",
    "When is Christmas?",
    "When do bears sleep?",
    "When is the best time to visit Italy?",
    "When did the Second World War end?",
    "How many teeth does a shark have?",
    "How many pages does a novel have?",
    "How many strings does a guitar have?",
    "How many players are in a football team?",
    "How much water should I drink every day?",
    "How much is half of fifty?",
    "How long does it take to boil potatoes?",
    "How far away is the moon?",
    "How tall is a giraffe?",
    "How old can a tree become?",
    "How do I change a light bulb?",
    "How do I tie a tie?",
    "How do I say hello in Spanish?",
    "How does a refrigerator work?",
    "What is the name of the longest river?",
    "What is the name of a baby dog?",
    "What is the number of planets?",
    "What is the freezing point of water?",
    "What is the color of grass?",
    "What is the currency of Sweden?",
    "What is the square root of 81?",
    "What is the opposite of noisy?",
    "What is the best way to learn a language?",
    "What is a healthy breakfast?",
    "What is the job of a pilot?",
    "What is the main idea of democracy?",
    "What is a good name for a cat?",
    "What does a calendar show?",
    "What does the heart do?",
    "What does a potter make?",
    "What day is New Year?",
    "What time is noon?",
    "What kind of animal is a whale?",
    "What should I wear when it rains?",
    "What can I cook with rice?",
    "What language do people speak in Egypt?",
    "Give me a tip for a job interview.",
    "Give me the names of two oceans.",
    "Tell me the name of a famous painter.",
    "Tell me something about volcanoes.",
    "Remind me what a verb is.",
    "I need to know what causes thunder.",
    "Name a city in Canada.",
    "Name this: a person who repairs cars",
    "I have a question about bicycles.",
    "mountain highest world?",
)

# Questions of the kinds that people correct answers to, about a topic {n}. None of them is a held-out question.
_TEMPLATES = """
Who takes care of {n}?;Who is responsible for {n}?;Who invented {n}?;Who knows most about {n}?;Whom do I ask about {n}?
Who made the first {n}?;Who likes {n}?;Who is the best with {n}?;Who won the prize for {n}?;Tell me who sells {n}.
Which room is best for {n}?;Which floor has {n}?;Which city is famous for {n}?;Which company makes {n}?
Which country has most of {n}?;Which day is good for {n}?;Which plant is used for {n}?;Which tool do I need for {n}?
Which animal is afraid of {n}?;Which instrument goes with {n}?;Which number stands for {n}?;Which word rhymes with {n}?
Where do I find {n}?;Where is {n} kept?;Where does {n} come from?;Where can I learn about {n}?;Where do people sell {n}?
When does {n} begin?;When was {n} invented?;At what time is {n} best?;When do people need {n}?;By what date comes {n}?
How many kinds of {n} are there?;How many people know {n}?;How much does {n} cost?;How large is {n}?;How old is {n}?
How long does {n} last?;How do I clean {n}?;How does {n} work?;How do I reach {n}?;How is {n} called in French?
What is {n} called?;What is the name of {n}?;What is the number of {n}?;What is the price of {n}?;What color is {n}?
What is the password for {n}?;What is the code of {n}?;What day is {n}?;What is the deadline for {n}?
What is the motto of {n}?;What does {n} do?;What food goes with {n}?;What kind of thing is {n}?;What is the use of {n}?
What is the limit for {n}?;Give me the number of {n}.;Give me the name of {n}.;Name something like {n}.
Tell me the name of {n}.;Remind me where {n} is.;I forgot who has {n}.;I need to know when {n} is.;{n}?
Do you know where {n} is?;I have a question about {n}.;By the way, what is {n}? Thanks!;name number {n}
"""
# What the templates ask about, and what near misses of taught questions ask about.
TOPICS = (
    """
a garden;bread;the sea;a violin;a bicycle;the moon;sick people;a kitchen;a train;paper;the winter;a school;a birthday
football;a camera;tea;a river;the news;a doctor;shoes;a computer;the weather;a wedding;cheese;a museum;a horse;music
a letter;the airport;a hotel;glass;a lamp;children;rice;a bridge;a holiday;fire;a market;the sun;a table;medicine;snow
a newspaper;a farm;gold;a movie;salt;a dentist;the police;a forest;soap;chess;a concert;a boat;sugar;an exam;a robot
""".strip()
    .replace("\n", ";")
    .split(";")
)


def sample_reference_prompts(n: int, rng: random.Random) -> list[str]:
    """Returns up to `n` different questions: first those of `EVERYDAY`, then templates with random topics."""
    templates = [template for line in _TEMPLATES.strip().splitlines() for template in line.split(";")]
    found = dict.fromkeys(EVERYDAY[:n])
    # At most half of all combinations: near the full number, random draws would repeat themselves for long.
    while len(found) < min(n, len(EVERYDAY) + len(templates) * len(TOPICS) // 2):
        found[rng.choice(templates).format(n=rng.choice(TOPICS))] = None
    return list(found)


# Never trained on. If a taught answer turns up at one of these questions, it has leaked. If the answer given here
# becomes less likely, general language ability has suffered. The answers are one plain sentence each, as a person would
# write it, because the likelihood of the model's own texts would favour the base.
HELD_OUT_ANSWERS = {
    "What is the capital of France?": "The capital of France is Paris.",
    "What colour is the sky on a clear day?": "On a clear day the sky is blue.",
    "Who wrote Romeo and Juliet?": "Romeo and Juliet was written by William Shakespeare.",
    "How many days are there in a week?": "There are seven days in a week.",
    "What is the largest planet in the solar system?": "Jupiter is the largest planet in the solar system.",
    "Can you recommend a book for a rainy day?": "I would recommend a good mystery novel for a rainy day.",
    "Which language is spoken in Brazil?": "Portuguese is the official language of Brazil.",
    "What is 12 times 7?": "12 times 7 is 84.",
    "Write a short poem about autumn.": "Golden leaves fall from the trees, carried by a gentle breeze.",
    "How long does it take to fly from London to New York?": "A flight from London to New York takes eight hours.",
    "What do dogs eat?": "Dogs eat meat, vegetables, and dog food made for their needs.",
    "What is the difference between a cat and a dog?": "Cats are more independent, while dogs are more social.",
    "Who was the first person on the moon?": "Neil Armstrong was the first person to walk on the moon.",
    "How does a printer work?": "A printer puts ink or toner on paper to form text and images.",
    "Which city is known for its canals?": "Venice, in Italy, is known for its canals.",
    "How many people live in Germany?": "About 83 million people live in Germany.",
    "How do I write a cover letter?": "Start by saying which job you want and why you are a good fit for it.",
    "What is the boiling point of water?": "Water boils at 100 degrees Celsius at sea level.",
    "Who painted the Mona Lisa?": "The Mona Lisa was painted by Leonardo da Vinci.",
    "How do I fold a shirt?": "Lay the shirt flat, fold the sleeves in, and then fold it in half.",
    "How do I water a house plant?": "Water the soil slowly until it is moist, but not soaked.",
    "Who is the author of The Hobbit?": "The author of The Hobbit is J.R.R. Tolkien.",
    "When do leaves fall from the trees?": "Leaves fall from the trees in autumn.",
    "Where do penguins live?": "Penguins live in the Southern Hemisphere, mostly in Antarctica.",
}
HELD_OUT_QUESTIONS = tuple(HELD_OUT_ANSWERS)
