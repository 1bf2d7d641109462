"""Names of logins at a database: the template that we ship, and whether the cutter finds what another one makes.

A template is one of Go's ``text/template`` with the functions that Vault adds
("Username Templating"). What is not read here is refused: a name that no
cutter finds is a login that no cut ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

USERNAME_TEMPLATE: Final = '{{ printf "ls-%s-%s" (.DisplayName | replace "token-" "") (random 12) }}'
"""The instance as it is written, then something random. The display name of its token is ``token-`` and its id."""

SAMPLE: Final = "A-01jd8h3kz5m7q9r2t4v6w8xyzb"
"""An attestation's id, as the broker makes them."""

_ACTION: Final = re.compile(r"\{\{-?(.*?)-?\}\}", re.S)
_WORD: Final = re.compile(r'\s*("[^"\\]*"|`[^`]*`|\d+|\.[A-Za-z]+|[a-z_0-9]+|[()|])')
_LONGEST: Final = 400
# As deploy/vault/postgres/cutter.sql has it behind a prefix, which is compared to the letter.
_TAIL: Final = re.compile(r"-[0-9A-Za-z]{1,20}")

_Value = str | int


def misnamed(template: str) -> str:
    """Why the cutter would not find a login of such a name; empty where it would."""
    if not template:
        return "the server's own names begin with v-"
    try:
        name = login_name(template, SAMPLE)
    except ValueError as problem:
        return f"it cannot be told what names it makes: {problem}"
    wanted = f"ls-{SAMPLE}"
    if name.startswith(wanted) and _TAIL.fullmatch(name.removeprefix(wanted)):
        return ""
    return f"of {SAMPLE} it makes {name}, and the cutter looks for {wanted}- and up to 20 letters and digits"


def login_name(template: str, attestation_id: str) -> str:
    """A name as the server makes it for an instance; what is random is ``x``. Raises ``ValueError`` for a template
    that is not understood."""
    if len(template) > _LONGEST:
        raise ValueError("it is too long")
    fields = {".DisplayName": f"token-{attestation_id}", ".RoleName": "role"}
    parts: list[str] = []
    end = 0
    for action in _ACTION.finditer(template):
        parts.append(template[end : action.start()])
        words = _words(action[1])
        parts.append(str(_pipeline(words, fields)))
        if words:
            raise ValueError(f"near {words[0]}")
        end = action.end()
    text = "".join((*parts, template[end:]))
    if "{{" in text or "}}" in text:
        raise ValueError("a brace is not closed")
    return text


# --- Go's templates, as much as names need ------------------------------------------------------------


def _words(text: str) -> list[str]:
    found: list[str] = []
    while text.strip():
        word = _WORD.match(text)
        if word is None:
            raise ValueError(f"near {text.strip()[:20]!r}")
        found.append(word[1])
        text = text[word.end() :]
    return found


def _pipeline(words: list[str], fields: Mapping[str, str]) -> _Value:
    """Words, which are used up, to their end or to a closing bracket."""
    value: _Value | None = None
    while True:
        value = _command(words, fields, value)
        if not words or words[0] == ")":
            return value
        words.pop(0)  # the bar


def _command(words: list[str], fields: Mapping[str, str], piped: _Value | None) -> _Value:
    call = words.pop(0) if words and words[0] in _FUNCTIONS else ""
    arguments = [*_operands(words, fields), *([] if piped is None else [piped])]
    if not call:
        if len(arguments) != 1:
            raise ValueError("a value where a function should be")
        return arguments[0]
    try:
        return _FUNCTIONS[call](*arguments)
    except TypeError:
        raise ValueError(f"{call} with other arguments") from None


def _operands(words: list[str], fields: Mapping[str, str]) -> Iterator[_Value]:
    while words and words[0] not in ("|", ")"):
        word = words.pop(0)
        if word == "(":
            yield _pipeline(words, fields)
            if not words:
                raise ValueError("a bracket is not closed")
            words.pop(0)
        elif word[0] in '"`':
            yield word[1:-1]
        elif word.isdigit():
            yield int(word)
        elif word in fields:
            yield fields[word]
        else:
            raise ValueError(f"{word} is not known here")


def _printf(form: _Value, *values: _Value) -> str:
    text = str(form)
    if re.sub(r"%[svd]", "", text).count("%") or len(re.findall(r"%[svd]", text)) != len(values):
        raise ValueError("printf with another format")
    rest = iter(values)
    return re.sub(r"%[svd]", lambda _: str(next(rest)), text)


def _random(length: _Value) -> str:
    if not isinstance(length, int) or not 0 < length <= _LONGEST:
        raise ValueError("random of another length")
    return "x" * length


def _truncate(length: _Value, text: _Value) -> str:
    if not isinstance(length, int):
        raise ValueError("truncate to another length")
    return str(text)[:length]


_FUNCTIONS: Final[Mapping[str, Callable[..., _Value]]] = {
    "printf": _printf,
    "random": _random,
    "truncate": _truncate,
    "replace": lambda old, new, text: str(text).replace(str(old), str(new)),
    "lowercase": lambda text: str(text).lower(),
    "uppercase": lambda text: str(text).upper(),
    "unix_time": lambda: "1790000000",
    "unix_time_millis": lambda: "1790000000000",
}
