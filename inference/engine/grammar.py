"""Answers that must match a grammar: JSON Schemas, regular expressions, choices (llguidance).

llguidance walks the vocabulary as a trie of bytes and says which tokens keep an answer inside its
grammar. The one module that imports it; it needs no machine-learning framework, so a web process
can refuse a bad grammar at admission.
"""

import json
import re
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from inference.engine.odds import Matcher
from inference.engine.text import Text
from inference.engine.work import Grammar, GrammarKind

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MOST_CHARACTERS = 65_536
"""The longest grammar taken."""

_LIMITS = LLParserLimits(
    initial_lexer_fuel=500_000,
    step_lexer_fuel=100_000,
    step_max_items=20_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)
"""In llguidance's own units; together they bound compiling and a step to some ten milliseconds."""

_JSON: "JsonCompileOptions" = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""On one line, as `json.dumps` writes it: a model cannot fill its answer with spaces."""


class GrammarRefused(ValueError):
    """A grammar that is wrong, too large, or says what is not supported; the message says which."""


def check(grammar: Grammar) -> None:
    """Raise GrammarRefused unless the grammar can be followed. May take a tenth of a second."""
    message = LLMatcher.validate_grammar(_compiled(grammar), limits=_LIMITS)
    if message and not message.startswith("WARNING"):
        raise GrammarRefused(_first_line(message))


class Grammars:
    """Matchers over one model's vocabulary."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._lock = Lock()
        self._tokenizer: LLTokenizer | None = None

    def matcher(self, grammar: Grammar | None) -> Matcher | None:
        """A matcher at the grammar's beginning; raises GrammarRefused. For any thread.

        The first one reads the vocabulary, which takes a moment.
        """
        if grammar is None:
            return None
        matcher = LLMatcher(self._vocabulary(), _compiled(grammar), log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarRefused(_first_line(matcher.get_error()))
        made = _Matcher(matcher, self._vocabulary().vocab_size)
        made.warm()
        return made

    def _vocabulary(self) -> LLTokenizer:
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = LLTokenizer(
                    TokenizerWrapper(_Vocabulary(self._text)), eos_token=sorted(self._text.eos)
                )
            return self._tokenizer


class _Vocabulary:
    """A `Text` as llguidance's wrapper wants it."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self.eos_token_id = min(text.eos)
        self.bos_token_id = None
        self.special_token_ids = [n for n, piece in enumerate(text.pieces) if not piece]
        self.tokens = [piece or b"\xff<%d>" % n for n, piece in enumerate(text.pieces)]

    def __call__(self, text: str) -> list[int]:
        return [token for token in self._text.encode(text) if token not in self._text.eos]


class _Matcher:
    """See `odds.Matcher`."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._bits = np.zeros(-(-vocabulary // 32), np.int32)

    def warm(self) -> None:
        """Compute the first tokens, which takes longest; GrammarRefused if there are none."""
        try:
            if not self.allowed(self._bits.size * 32).any():
                raise GrammarRefused("it allows no answer")
        except ValueError as error:
            raise GrammarRefused(str(error)) from error

    def take(self, token: int) -> None:
        self._matcher.consume_token(token)

    def allowed(self, width: int) -> NDArray[np.bool_]:
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise ValueError(f"the grammar cannot go on: {_first_line(self._matcher.get_error())}")
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[:width]
        return np.pad(bits, (0, width - len(bits))).view(np.bool_)


def _compiled(grammar: Grammar) -> str:
    if len(grammar.source) > MOST_CHARACTERS:
        raise GrammarRefused(
            f"it has {len(grammar.source):,} characters; at most {MOST_CHARACTERS:,} are taken"
        )
    try:
        match grammar.kind:
            case GrammarKind.json_schema:
                return LLMatcher.grammar_from_json_schema(grammar.source, overrides=_JSON)
            case GrammarKind.regex:
                return LLMatcher.grammar_from_regex(grammar.source)
            case GrammarKind.choice:
                return LLMatcher.grammar_from_regex(_any_of(json.loads(grammar.source)))
            case GrammarKind.lark:
                return LLMatcher.grammar_from_lark(grammar.source)
    except ValueError as error:
        raise GrammarRefused(_first_line(str(error))) from error


def _any_of(choices: list[str]) -> str:
    return "|".join(map(re.escape, choices))


def _first_line(message: str) -> str:
    return message.strip().split("\n")[0][:300]
