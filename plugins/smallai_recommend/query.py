"""Parses a request into a query: what items should be about, what they should not be about, and titles to be like."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field

from smallai_recommend.wish_language import ENGLISH, fold_word, is_known, language_of, parse_foreign, words_of

_MAX_READ_CHARS = 2_000  # of a request; what comes later is ignored, so that a pasted book costs nothing
_MAX_QUERY_CHARS = 300  # of the text that is embedded
_MAX_TITLE_WORDS = 12  # longer titles are not looked for
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_YEAR = re.compile(r"\((\d{4})\)\s*$")

# Words of a request that do not describe the wanted items.
_STOP_WORDS = """
a about advice advise after again album albums all already also am an and another any anything are around article
articles as ask at audiobook audiobooks author available avoid away based be because been before best better binge
bit book books bored boring but buy by can can't catalog catalogue check choose club come comes could couldn't
currently day days did didn't different discover do does doesn't don't done dozen eight else enjoy enjoyed entertain
entertaining entertainment evening ever every except fan fancy fans far favorite favorites favourite favourites feel
feels few fill film films find finished first fit fits five for found four free friday from game games gave get gift
give go going good got great guess had has hasn't hate have haven't having hear hello help here hey hi hit home hope
hour hours how i i'd i'll i'm i've idea ideas if in interesting into is isn't it it's item items its just kill kind
know last lately latest left let let's like liked likely likes list listen listening look looking lot love loved
made make many match matches may maybe me might mind minutes monday month mood more most movie movies much music
must my myself name need never new newest next nice night nine no none not nothing novel novels now of off ok okay
on one ones online or other others our out over own people perhaps pick picked picks play please plus podcast
podcasts popular preferences product products put queue quick rate rated read reading really recently recommend
recommendation recommendations recommended record records rent right said same saturday saw say search see seen send
series set seven should show shows similar since six so some someone something song songs soon sort spare spend
start stay still stream stuff suggest suggested suggesting suggestion suggestions suit suits sunday sure surprise
take taste tastes tell ten than thank thanks that that's the them then there there's these they they're thing things
think this those three thursday time tip tips title titles to today today's together tomorrow tonight tonight's too
top trending try tuesday tv twenty two under until up us use user usual usually very view want wanted wants was
watch watched watching watchlist way we we'd we're wednesday week weekend weekend's weekends well went were what
what's whatever when where which while who who's whose why will wish with without won't wondering worth worthwhile
would wouldn't year years yes yet you you'd you're your
"""
_STOP = frozenset(_STOP_WORDS.split())
# After these, "love" is a verb and describes nothing; elsewhere it is a theme, as in "a love story".
_LOVER_WORDS = """
absolutely also always could do don't i i'd i'll just may might not really should they to we who will would you you'd
"""
_LOVERS = frozenset(_LOVER_WORDS.split())
# After these, a title is meant as a title even if it is an ordinary word.
_TITLE_CUE_WORDS = "like liked loved love enjoyed after finished seen saw read watched to as of"
_TITLE_CUES = frozenset(_TITLE_CUE_WORDS.split())
_AVOID = re.compile(
    r"\b(?:no|not|nothing|without|except|but not|avoid|hate|never)(?:\s+(?:too|so|very|a|an|any|another|more|like))*\s+"
    r"((?:love\s+)?[^\W\d_][\w'’-]*)",
    re.IGNORECASE,
)
_LIKE_LAST = re.compile(r"\b(?:like|similar to|as) (?:the|my) (?:last|latest|previous)\b|\bmore of the same\b", re.I)


@dataclass(frozen=True, slots=True)
class Query:
    """What a request asks for.

    Attributes:
        text: what the items should be about; empty for a bare request such as "recommend something".
        avoid: what they should not be about.
        like: item indices of the titles named.
        like_last: whether the items should be like the one that the user chose last.
        language: the language of the request; empty if none of its words tells.
        doubtful: words that may not be understood; then the answer does not claim that it follows the request.
    """

    text: str = ""
    avoid: str = ""
    like: tuple[int, ...] = ()
    like_last: bool = False
    language: str = field(default="", compare=False)
    doubtful: tuple[str, ...] = ()

    @property
    def is_bare(self) -> bool:
        """Whether the request asks for nothing in particular."""
        return not (self.text or self.avoid or self.like or self.like_last)


class TitleFinder:
    """Finds titles in a text.

    Args:
        titles: by item index.
        prominence: by item index; of equal titles the most prominent item is meant.
    """

    def __init__(self, titles: Mapping[int, str], prominence: Sequence[float]) -> None:
        self._by_words: dict[tuple[str, ...], list[tuple[int, str]]] = {}
        for index in sorted(titles, key=lambda index: -prominence[index]):
            year = _YEAR.search(titles[index])
            words = _title_words(titles[index])
            if 0 < len(words) <= _MAX_TITLE_WORDS:
                self._by_words.setdefault(words, []).append((index, year[1] if year else ""))

    def find(self, text: str) -> tuple[tuple[int, ...], str]:
        """Finds titles and returns their item indices, and the text without them.

        A title of one word or of stop words counts only after a cue such as "like", "loved" or "after": "Big" is a
        film, but mostly an ordinary word.
        """
        tokens = list(_WORD.finditer(text))
        words = [_fold(token[0]) for token in tokens]
        found: list[int] = []
        rest, place, copied = "", 0, 0
        while place < len(words):
            length = self._longest(words, place, is_named=_is_named(words, place))
            if not length:
                place += 1
                continue
            after = tokens[place + length][0] if place + length < len(tokens) else ""
            index, has_year = self._pick(words[place : place + length], after)
            found.append(index)
            end = place + length + has_year  # the year belongs to the title
            rest += text[copied : tokens[place].start()]
            copied = tokens[end - 1].end()
            place = end
        return tuple(dict.fromkeys(found)), rest + text[copied:]

    def _longest(self, words: Sequence[str], place: int, *, is_named: bool) -> int:
        """Number of words of the longest title that starts at `place`; 0 if there is none."""
        # One word more than a title may have, for a leading "the" that titles are stored without.
        for length in range(min(_MAX_TITLE_WORDS + 1, len(words) - place), 0, -1):
            title = tuple(words[place : place + length])
            if _without_the(title) not in self._by_words:
                continue
            is_telling = length > 1 and any(word not in _STOP for word in title)
            if is_named or (is_telling and len(_without_the(title)) > 1):
                return length
        return 0

    def _pick(self, words: Sequence[str], after: str) -> tuple[int, bool]:
        """The item that is meant, and whether the word after the title is its year."""
        candidates = self._by_words[_without_the(tuple(words))]
        for index, year in candidates:
            if year and year == after:
                return index, True
        return candidates[0][0], False


def parse_query(text: str, finder: TitleFinder) -> Query:
    """Parses a request."""
    # Composed, because a word pattern would split a letter from its accent.
    like, rest = finder.find(unicodedata.normalize("NFC", text[:_MAX_READ_CHARS]))
    language = language_of(rest, _STOP)
    if language not in ("", ENGLISH):
        words, others = parse_foreign(rest, language)
        return Query(" ".join(words)[:_MAX_QUERY_CHARS], " ".join(others)[:_MAX_QUERY_CHARS], like, language=language)
    unwanted = [match[1] for match in _AVOID.finditer(rest) if _is_unwanted(match)]
    if unwanted:
        rest = _AVOID.sub(lambda match: " " if _is_unwanted(match) else match[0], rest)
    wanted = _content(rest)
    like_last = not like and not wanted and bool(_LIKE_LAST.search(rest))
    return Query(wanted, " ".join(unwanted), like, like_last, language)


def doubtful_words(query: Query, vocabulary: Callable[[], Container[str]]) -> tuple[str, ...]:
    """The words of a request that the models may not understand: those that are not English and not of the catalogue.

    A request of English words alone has none, and neither has one of a few words that no language is known of, such as
    "space western", unless a word of the catalogue stands beside a foreign one: then that may turn it round.

    Args:
        query: the request.
        vocabulary: returns the words of the catalogue, folded.
    """
    words = [word for word in words_of(f"{query.text} {query.avoid}") if word not in _STOP and len(word) > 1]
    if query.language == ENGLISH or not words:
        return ()
    known = vocabulary()
    doubtful = tuple(dict.fromkeys(word for word in words if not is_known(word, known)))
    return () if not query.language and len(doubtful) == len(set(words)) else doubtful


def _content(text: str) -> str:
    """Keeps each clause from its first to its last word that describes something."""
    clauses = (_clause(list(_WORD.finditer(clause)), clause) for clause in re.split(r"[,;:.!?\n]+", text))
    return ", ".join(clause for clause in clauses if clause)[:_MAX_QUERY_CHARS]


def _clause(tokens: list[re.Match[str]], text: str) -> str:
    before = ["", *(token[0] for token in tokens)]
    telling = [token for token, previous in zip(tokens, before, strict=False) if _is_telling(token[0], previous)]
    # The stop words in between stay: "a ship in a storm" is a phrase, "ship storm" a list of words.
    return text[telling[0].start() : telling[-1].end()] if telling else ""


def _is_telling(word: str, previous: str) -> bool:
    """Whether a word describes the wanted items."""
    word, previous = _fold(word), _fold(previous)
    if word == "love":
        return previous not in _LOVERS
    return word not in _STOP and len(word) > 1 and not word.isdigit()


def _is_unwanted(match: re.Match[str]) -> bool:
    return match[1].split()[-1].casefold() not in _STOP


def _is_named(words: Sequence[str], place: int) -> bool:
    """Whether the words before `place` announce a title."""
    before = words[place - 1] if place else ""
    if before == "to":
        return place > 1 and words[place - 2] in ("similar", "close")
    if before in ("and", "or"):  # "like Alien and Heat": the cue stands before the first title
        return any(word in _TITLE_CUES for word in words[:place])
    return before in _TITLE_CUES


def _title_words(title: str) -> tuple[str, ...]:
    title = _YEAR.sub("", unicodedata.normalize("NFC", title))
    return _without_the(tuple(_fold(word) for word in _WORD.findall(_article_first(title))))


def _article_first(title: str) -> str:
    """Turns "Matrix, The", as catalogues sort it, into "The Matrix"."""
    return re.sub(r"^(.*), (The|A|An)\s*$", r"\2 \1", title.strip())


def _without_the(words: tuple[str, ...]) -> tuple[str, ...]:
    return words[1:] if len(words) > 1 and words[0] == "the" else words


def _fold(word: str) -> str:
    return fold_word(word)
