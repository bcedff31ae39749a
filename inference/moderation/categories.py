"""The categories, and the words by which a text is of one whatever the encoder makes of it."""

import re
from collections.abc import Mapping
from enum import StrEnum


class Category(StrEnum):
    """OpenAI's. What is of the part behind the stroke is of the whole before it, too."""

    HARASSMENT = "harassment"
    HARASSMENT_THREATENING = "harassment/threatening"
    HATE = "hate"
    HATE_THREATENING = "hate/threatening"
    ILLICIT = "illicit"
    ILLICIT_VIOLENT = "illicit/violent"
    SELF_HARM = "self-harm"
    SELF_HARM_INTENT = "self-harm/intent"
    SELF_HARM_INSTRUCTIONS = "self-harm/instructions"
    SEXUAL = "sexual"
    SEXUAL_MINORS = "sexual/minors"
    VIOLENCE = "violence"
    VIOLENCE_GRAPHIC = "violence/graphic"

    @property
    def whole(self) -> "Category":
        """What it is a part of; itself where it is none."""
        return Category(self.partition("/")[0])


_WILL = r"\bi(?:'m| am|'ll| will)? ?(?:will |going to |gonna |want to |plan to )?"
_HOW = (
    r"\b(?:how (?:do|can|to|would)|teach me|tell me|show me|explain|instructions|recipe)\b.{0,60}\b"
)
_YOUNG = r"(?:child(?:ren)?|kids?|minors?|under-?age|toddlers?|(?:[1-9]|1[0-7])[ -]years?[ -]old)"
_LEWD = r"(?:sexual(?:ly)?|erotic|nude|naked|porn\w*|sex (?:story|scene|with))"


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


RULES: Mapping[Category, tuple[re.Pattern[str], ...]] = {
    Category.SELF_HARM_INTENT: (
        _words(_WILL + r"(?:kill|hang|shoot|drown) myself\b"),
        _words(_WILL + r"(?:end|take) my (?:own )?life\b"),
    ),
    Category.SELF_HARM_INSTRUCTIONS: (
        _words(_HOW + r"(?:kill|hang|cut|hurt) (?:myself|yourself|oneself)\b"),
        _words(_HOW + r"commit suicide\b"),
    ),
    Category.HARASSMENT_THREATENING: (
        _words(
            r"\bi(?:'ll| will|'m going to| am going to) (?:kill|murder|stab|shoot|rape|hurt) you\b"
        ),
    ),
    Category.VIOLENCE: (
        _words(
            r"\bi(?:'ll| will|'m going to| am going to) (?:kill|murder|stab|shoot) "
            r"(?:you|him|her|them|my|every\w+|the)\b"
        ),
    ),
    Category.HATE_THREATENING: (
        _words(r"\b(?:kill|gas|shoot|burn|exterminate) (?:all|every) (?:the |of the )?\w+s\b"),
    ),
    Category.ILLICIT: (
        _words(_HOW + r"(?:cook|make|synthesi[sz]e) (?:\w+ )?(?:meth\w*|cocaine|heroin|lsd)\b"),
        _words(_HOW + r"(?:hot-?wire|shoplift\w*|launder money|counterfeit|ransomware)\b"),
    ),
    Category.ILLICIT_VIOLENT: (
        _words(_HOW + r"(?:pipe bomb|car bomb|bombs?|explosives?|nerve gas|molotov\w*)\b"),
    ),
    Category.SEXUAL_MINORS: (
        _words(rf"\b{_LEWD}\b.{{0,60}}\b{_YOUNG}\b"),
        _words(rf"\b{_YOUNG}\b.{{0,60}}\b{_LEWD}\b"),
    ),
    Category.VIOLENCE_GRAPHIC: (
        _words(r"\b(?:decapitat\w+|disembowel\w*|dismember\w*|entrails|gouged? out)\b"),
        _words(r"\b(?:brains?|guts|blood) (?:\w+ )?(?:splatter|spray|spill|spurt)\w*"),
    ),
}
"""Each explicit enough to be of its category by itself."""
