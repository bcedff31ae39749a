"""Between text and tokens: chat templates in, whole characters out.

Needs tokenizers and jinja2 alone, so that a web process can count tokens without a model.
"""

import codecs
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from inference.engine.manifest import Manifest, NotPrepared, read_manifest

Message = Mapping[str, Any]


class ChatRefused(ValueError):
    """Messages that the model's chat template cannot render; the message says why."""


class Detokenizer:
    """Tokens in, text out; a character leaves once its last byte has come.

    Bytes that are no UTF-8 come out as U+FFFD, as they do when decoded at once; a character that
    is still incomplete at the end never does.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text this token completes; a token that is not in the vocabulary makes none."""
        if not 0 <= token < len(self._pieces):
            return ""
        return self._decoder.decode(self._pieces[token])


class Text(Protocol):
    """A model's tokenizer, chat template and ends."""

    @property
    def eos(self) -> frozenset[int]: ...

    @property
    def context(self) -> int: ...

    @property
    def pieces(self) -> Sequence[bytes]:
        """Each token's bytes; none for a special one."""
        ...

    def encode(self, text: str) -> list[int]:
        """Plain text to tokens; what looks like a special token stays text."""
        ...

    @property
    def knows_tools(self) -> bool:
        """Whether the chat template itself tells of tools, in Hermes's form."""
        ...

    def chat(self, messages: Sequence[Message], tools: Sequence[Message] = ()) -> list[int]:
        """A conversation to tokens, ready for the assistant's answer. Raises ChatRefused.

        What looks like a special token inside a message stays text. `tools` is for a template
        that knows them.
        """
        ...

    def stream(self) -> Detokenizer:
        """A new detokenizer for one answer."""
        ...


class BpeText:
    """Text by a byte-level BPE `tokenizer.json` and the Jinja chat template beside it."""

    def __init__(self, tokenizer: Tokenizer, template: str, manifest: Manifest) -> None:
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._template = _environment().from_string(template)
        self._special = {
            token.content: number
            for number, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        self._borders = re.compile(
            "(" + "|".join(re.escape(token) for token in sorted(self._special, reverse=True)) + ")"
            if self._special
            else "(?!)"
        )
        self.pieces: Sequence[bytes] = _pieces(tokenizer)
        self.knows_tools = "tools" in template and "<tool_call>" in template
        self.eos = frozenset(manifest.eos)
        self.context = manifest.context

    def encode(self, text: str) -> list[int]:
        """Plain text to tokens; what looks like a special token stays text."""
        return list(self._tokenizer.encode(text).ids)

    def chat(self, messages: Sequence[Message], tools: Sequence[Message] = ()) -> list[int]:
        """A conversation to tokens, ready for the assistant's answer. Raises ChatRefused.

        Special tokens are known by their spelling in the rendered text; those that a message
        spells are broken by a mark nobody can guess, which is taken out again afterwards.
        """
        mark = f"\ue000{secrets.token_hex(8)}\ue000"
        try:
            rendered = self._template.render(
                messages=self._broken(list(messages), mark),
                tools=self._broken(list(tools), mark) or None,
                add_generation_prompt=True,
            )
        except (TemplateError, TypeError) as error:
            raise ChatRefused(f"The messages do not fit the model's chat template: {error}") from (
                error
            )
        tokens: list[int] = []
        for part in self._borders.split(rendered):
            if part in self._special:
                tokens.append(self._special[part])
            elif part:
                plain = part.replace(mark, "")
                tokens.extend(self._tokenizer.encode(plain, add_special_tokens=False).ids)
        return tokens

    def stream(self) -> Detokenizer:
        """A new detokenizer for one answer."""
        return Detokenizer(self.pieces)

    def _broken(self, value: Any, mark: str) -> Any:
        if isinstance(value, str):
            return self._borders.sub(lambda found: found[0][:1] + mark + found[0][1:], value)
        if isinstance(value, Mapping):
            return {key: self._broken(item, mark) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._broken(item, mark) for item in value]
        return value


class ByteText:
    """The echo model's text: a token is a byte, and one more ends a prompt and an answer."""

    END = 256
    knows_tools = False

    def __init__(self, context: int) -> None:
        self.eos = frozenset({self.END})
        self.context = context
        self.pieces: Sequence[bytes] = _BYTES

    def encode(self, text: str) -> list[int]:
        """The text's bytes and the end."""
        return [*text.encode(), self.END]

    def chat(self, messages: Sequence[Message], tools: Sequence[Message] = ()) -> list[int]:
        """The last message's content: what the model echoes."""
        return self.encode(str(messages[-1]["content"]) if messages else "")

    def stream(self) -> Detokenizer:
        """A new detokenizer for one answer."""
        return Detokenizer(_BYTES)


_BYTES = [*(bytes([byte]) for byte in range(256)), b""]


def load_text(folder: Path) -> Text:
    """The text of a prepared model's folder; raises NotPrepared."""
    manifest = read_manifest(folder)
    if manifest.backend == "echo":
        return ByteText(manifest.context)
    return BpeText(
        Tokenizer.from_file(str(folder / "tokenizer.json")),
        (folder / "chat_template.jinja").read_text(),
        manifest,
    )


def same_tokens(one: Path, other: Path) -> bool:
    """Whether two prepared models read the same tokens: their tokenizers and chat templates are the
    same. False where one of them is not there."""
    if one == other:
        return True
    try:
        if {read_manifest(each).backend for each in (one, other)} == {"echo"}:
            return True
        return all(
            (one / name).read_bytes() == (other / name).read_bytes()
            for name in ("tokenizer.json", "chat_template.jinja")
        )
    except (NotPrepared, OSError):
        return False


def _pieces(tokenizer: Tokenizer) -> list[bytes]:
    """Each token's bytes; nothing for a special one."""
    decoder = json.loads(tokenizer.to_str())["decoder"]
    if not decoder or decoder["type"] != "ByteLevel":
        raise ValueError("only byte-level BPE tokenizers are supported")
    pieces = [b""] * tokenizer.get_vocab_size()
    for piece, number in tokenizer.get_vocab(with_added_tokens=False).items():
        pieces[number] = bytes(_byte_of()[letter] for letter in piece)
    for number, token in tokenizer.get_added_tokens_decoder().items():
        pieces[number] = b"" if token.special else token.content.encode()
    return pieces


@cache
def _byte_of() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(0x100 + index): byte for index, byte in enumerate(others)},
    }


def _environment() -> ImmutableSandboxedEnvironment:
    """What transformers gives a chat template."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(
        value, ensure_ascii=False, **options
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment


def _refuse(message: str) -> None:
    raise TemplateError(message)
