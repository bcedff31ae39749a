"""What of a question must be the same in another for the two to be taken for one.

An encoder puts a question and its opposite closer together than two phrasings of one question, so
how alike two vectors are decides nothing alone. What a text says is here read by its words: those
that carry meaning, in their order, without what is said for politeness or grammar's sake. Numbers,
negations, names and quoted texts are among them, and words of languages that are not known here all
are: two questions of these are the same only where they are almost the same letters.
"""

import re
import unicodedata

_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»|„[^“”]*[“”]|`[^`]+`|(?<!\w)'[^']*'(?!\w)")
_WORD = re.compile(
    r"[+\-−]?\d[\d.,:/\-]*\d%?|[+\-−]?\d%?"  # noqa: RUF001
    r"|[^\W\d_][\w.@/\\-]*[^\W_]|[^\W_]|\w+|[^\w\s.,;:!?…'’\"()]"  # noqa: RUF001
)
_POLITE = re.compile(
    r"\s*(?:(?:hi|hello|hey|please|kindly|ok|okay|so|well|thanks|thank you"
    r"|(?:can|could|would|will) you(?: please)?(?: be so kind (?:and|to))?"
    r"|i(?:'d| would) like(?: you)? to know|i(?:'d| would) like(?: to have)?|i want to know|i need"
    r"|i was wondering|do you know|tell me|give me|show me|show|list|let me know)\b[,:!]*\s*)+",
    re.IGNORECASE,
)
_PLEASE = re.compile(r"[\s,]*\b(?:please|thanks|thank you|thx)[\s.!]*$", re.IGNORECASE)
_GRAMMAR = frozenset(
    (
        *("a", "an", "the", "i", "it", "its", "is", "are", "am", "be", "being", "been"),
        *("do", "does", "have", "has", "can", "what", "which", "that", "there", "some"),
        *("really", "exactly", "actually", "just"),
    )
)
"""Says how words belong together; two questions that differ in these alone are the same."""
_ASKS = {
    "is": "is", "are": "is", "am": "is", "do": "do", "does": "do", "have": "has", "has": "has",
    "can": "can",
}  # fmt: skip
"""Whether something is so: as the first word they make a question of what was a statement."""
_SAME = {
    "explain": "how", "amount": "much", "begin": "start",
    "purchase": "buy", "frequently": "often", "calculate": "compute", "cannot": "not",
    "also": "too", "repair": "fix",
}  # fmt: skip
_SHORT = re.compile(r"(\w+)n['’]t\b", re.IGNORECASE)  # noqa: RUF001
_S = re.compile(r"['’](?:s|re|m|ve|d|ll)\b")  # noqa: RUF001
_HOW_TO = re.compile(r"\b(?:how|(?:what is )?the way) to\b", re.IGNORECASE)
_ENDINGS = ("ies", "y"), ("ing", ""), ("ed", ""), ("s", "")
_SHORTEST_STEM = 4
"""What shorter words are without an ending may be other words: rats, rated."""


def gist(text: str) -> tuple[str, ...]:
    """The words of a text that carry its meaning, in their order; quoted texts as they stand."""
    text = _PLEASE.sub("", unicodedata.normalize("NFC", text))
    text = text[found.end() :] if (found := _POLITE.match(text)) else text
    first = text.split(maxsplit=1)[0].lower() if text.strip() else ""
    found_words = [f"?{_ASKS[first]}"] if first in _ASKS else []
    last = 0
    for quoted in _QUOTED.finditer(text):
        found_words += [*_words(text[last : quoted.start()], begins=not last), quoted.group()]
        last = quoted.end()
    return tuple(found_words + _words(text[last:], begins=not last))


def _words(text: str, *, begins: bool) -> list[str]:
    text = _HOW_TO.sub("how", _S.sub("", _SHORT.sub(r"\1 not", text)))
    found: list[str] = []
    for at, word in enumerate(_WORD.findall(text)):
        plain = word if _is_name(word) and not (begins and at == 0) else _plain(word)
        if plain and found[-1:] != [plain]:
            found.append(plain)
    return found


def _is_name(word: str) -> bool:
    """IT, US, a point A, a variable X: words that written small would be others."""
    return word.isupper() and word != "I"


def _plain(word: str) -> str:
    """A word as it is compared: small, since case says nothing else, and without its endings."""
    if not word[0].isalpha():
        return word.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+", word) else word
    plain = word.lower()
    if plain in _GRAMMAR:
        return ""
    plain = _SAME.get(plain, plain)
    for ending, instead in _ENDINGS:
        if plain.endswith(ending) and len(plain) - len(ending) >= _SHORTEST_STEM:
            return plain.removesuffix(ending) + instead if plain[-2:] != "ss" else plain
    return plain
