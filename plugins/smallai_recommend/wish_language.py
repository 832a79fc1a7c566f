"""Which language a wish is in, and what a wish in another language than English wants and does not want.

The sentence vectors know English, and in other languages they miss the one word that turns a wish round. So negations
come from a table; what is negated is compared as usual. English has more rules, in query.py.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container, Sequence
from dataclasses import dataclass

ENGLISH = "English"
_TOKEN = re.compile(r"[^\W_]+")  # apostrophes separate: French and Italian elide articles and negations
# They are English words, parts of such ("non-fiction"), or of many languages: alone they tell nothing.
_UNTELLING = frozenset(["sin", "non", "no", "not", "ne", "n", "ni", "né", "nem", "nie", "na", "o"])
_MIN_STEM = 5  # letters of a catalogue word that a longer word may start with: "Horrorfilme"


@dataclass(frozen=True, slots=True)
class _Language:
    """Words that describe no item.

    Attributes:
        negations: turn what follows round, or what stands before if nothing follows.
        only: after a negation, they turn it round again: "not only".
        or_: what follows is negated, too.
        others: articles, pronouns, and what people say when they ask for something.
    """

    negations: frozenset[str]
    only: frozenset[str]
    or_: frozenset[str]
    others: frozenset[str]

    @property
    def words(self) -> frozenset[str]:
        return self.negations | self.only | self.or_ | self.others


def _language(negations: str, only: str, or_: str, others: str) -> _Language:
    return _Language(*(frozenset(words.split()) for words in (negations, only, or_, others)))


# The eight European languages with most speakers beside English that are written in Latin or Cyrillic, by their
# Wikipedias. The words were listed by hand.
_LANGUAGES = {
    "German": _language(
        "kein keine keinen keinem keiner keins nicht ohne nie niemals nichts weder noch außer hasse",
        "nur bloß",
        "oder",
        "ich du er es wir mir mich uns der die das den dem des ein eine einen einem einer und mit für von zu "
        "zum zur in im auf aus an am über bitte gern gerne mag möchte will hätte würde suche such gib zeig "
        "empfiehl empfehle was etwas irgendwas mal heute abend lust film filme filmen buch bücher serie "
        "serien musik bin ist sind war sein so sehr zu aber auch doch wieder mehr gutes gute guten guter "
        "sehen lesen hören schauen haben wie danke",
    ),
    "French": _language(
        "pas sans jamais rien aucun aucune ni ne n sauf déteste",
        "seulement que uniquement",
        "ou",
        "je tu il elle nous vous me moi m le la les l un une des du de d et avec pour dans en sur ce cette "
        "ces que qu quoi s y a est suis veux voudrais aime aimerais cherche donne montre conseille recommande "
        "plaît plait svp merci quelque chose soir film films livre livres série musique trop très plus mais "
        "aussi bon bonne voir lire regarder",
    ),
    "Spanish": _language(
        "no sin nunca jamás nada ningún ninguna ninguno ni tampoco excepto odio",
        "solo sólo solamente",
        "o u",
        "yo tú él me mi te se nos el la los las lo un una unos unas y con para por de del en al a que qué "
        "quiero quisiera busco dame recomiéndame recomienda gusta gustan gustaría algo favor gracias hoy "
        "noche película películas film libro libros serie música muy demasiado más pero también bueno buena "
        "ver leer es sea",
    ),
    "Italian": _language(
        "non senza mai niente nulla nessun nessuno nessuna né no tranne odio",
        "solo soltanto solamente",
        "o oppure",
        "io tu mi me ti ci il lo la i gli le l un uno una e ed con per di del della dei da in su al che cosa "
        "voglio vorrei cerco dammi consigliami consiglia piace piacciono piacerebbe qualcosa favore grazie "
        "stasera film libro libri serie musica troppo molto più ma anche buon buono bella vedere leggere sia "
        "è",
    ),
    "Portuguese": _language(
        "não nao sem nunca jamais nada nenhum nenhuma nem exceto odeio",
        "só apenas somente",
        "ou",
        "eu tu ele me mim se nos o a os as um uma uns umas e com para por de do da dos das em no na que quero "
        "queria gostaria procuro recomenda recomende gosto algo alguma coisa favor obrigado obrigada hoje "
        "noite filme filmes film livro livros série música muito demais mais mas também bom boa ver ler seja "
        "é",
    ),
    "Dutch": _language(
        "geen niet zonder nooit niets niks noch behalve haat",
        "alleen enkel maar",
        "of",
        "ik jij je hij wij we me mij ons de het een en met voor van te in op uit over graag dank alsjeblieft "
        "alstublieft wil zou willen zoek geef toon iets wat vanavond zin film films boek boeken serie muziek "
        "is ben zijn heel erg meer ook goede goed leuk leuke hou houd zien lezen kijken",
    ),
    "Polish": _language(
        "nie bez nigdy nic żaden żadnych żadnego żadnej ani oprócz nienawidzę",
        "tylko",
        "lub albo",
        "ja ty mi mnie się to ten ta te i z ze dla na w we o do co coś jakiś jakąś jakieś chcę chciałbym "
        "chciałabym szukam daj pokaż poleć proszę dziękuję lubię wieczór dziś film filmy filmu filmów książka "
        "książkę książki serial seriale muzyka bardzo zbyt ale też dobry dobre obejrzeć",
    ),
    "Russian": _language(
        "не без нет никогда ничего никаких никакой ни кроме ненавижу",
        "только",
        "или либо",
        "я ты мне меня мы нам это и с со для на в во о про что нибудь хочу хотел хотела ищу дай покажи "
        "посоветуй порекомендуй пожалуйста спасибо люблю нравится вечер сегодня фильм фильмы фильмов книгу "
        "книги сериал музыку очень слишком но тоже хороший хорошее посмотреть почитать",
    ),
}


def fold_word(word: str) -> str:
    """The form in which words are compared: composed, without case, with one kind of apostrophe."""
    return unicodedata.normalize("NFC", word).casefold().replace("’", "'")


def language_of(text: str, english: Container[str]) -> str:
    """The language that most words of a text belong to, English if in doubt; empty if no word tells.

    Another language needs two of its words, or a negation that is in no English text: "La La Land" is not French.

    Args:
        text: the text.
        english: English words that describe no item.
    """
    words = set(words_of(text))
    best, most = ENGLISH, sum(word in english for word in words)
    for name, language in _LANGUAGES.items():
        n = len(words & language.words)
        if n > most and (n > 1 or words & language.negations - _UNTELLING):
            best, most = name, n
    return best if most else ""


def parse_foreign(text: str, language: str) -> tuple[list[str], list[str]]:
    """The words that a wish wants, and those that it does not want.

    Args:
        text: the wish.
        language: its language, as `language_of` names it.
    """
    known = _LANGUAGES[language]
    wanted: list[str] = []
    unwanted: list[str] = []
    for clause in re.split(r"[,;:.!?\n]+", unicodedata.normalize("NFC", text)):
        _read_clause(_TOKEN.findall(clause), known, wanted, unwanted)
    return wanted, unwanted


def _read_clause(words: Sequence[str], language: _Language, wanted: list[str], unwanted: list[str]) -> None:
    positive: list[str] = []
    negative: list[str] = []
    is_negated = is_or = False
    for place, word in enumerate(words):
        folded = fold_word(word)
        after = fold_word(words[place + 1]) if place + 1 < len(words) else ""
        if folded in language.negations:
            is_negated = after not in language.only
        elif folded in language.or_:
            is_or = bool(negative) and fold_word(words[place - 1]) == fold_word(negative[-1])
        elif folded not in language.words and len(folded) > 1 and not folded.isdigit():
            (negative if is_negated or is_or else positive).append(word)
            is_negated = is_or = False
    if is_negated and not negative:  # "Horror mag ich nicht"
        positive, negative = [], positive
    wanted += positive
    unwanted += negative


def is_known(word: str, vocabulary: Container[str]) -> bool:
    """Whether a word, or a catalogue word that it starts with, is in the vocabulary."""
    folded = fold_word(word)
    return folded in vocabulary or any(folded[:n] in vocabulary for n in range(_MIN_STEM, len(folded)))


def words_of(text: str) -> list[str]:
    """The words of a text, folded."""
    return [fold_word(word) for word in _TOKEN.findall(unicodedata.normalize("NFC", text))]
