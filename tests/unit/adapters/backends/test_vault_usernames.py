"""Templates for names of logins: what the cutter finds passes, everything else is refused with what it makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker.adapters.backends.vault_setup import USERNAME_TEMPLATE
from broker.adapters.backends.vault_setup.usernames import SAMPLE, login_name, misnamed

CUTTER = Path(__file__).parents[4] / "deploy" / "vault" / "postgres" / "cutter.sql"
INSTANCE = '.DisplayName | replace "token-" ""'

FOUND = {
    "ours": USERNAME_TEMPLATE,
    "another length": f'{{{{ printf "ls-%s-%s" ({INSTANCE}) (random 8) }}}}',
    "room for every id": f'{{{{ printf "ls-%s-%s" ({INSTANCE} | truncate 40) (random 12) | truncate 63 }}}}',
    "text around it": f"ls-{{{{ {INSTANCE} }}}}-{{{{random 20}}}}",
    "arguments instead of pipes": 'ls-{{ replace "token-" "" .DisplayName }}-{{ unix_time }}',
}
LOST = {
    "the server's own": "",
    "lower case": f'{{{{ printf "ls-%s-%s" ({INSTANCE} | truncate 40) (random 12) | lowercase }}}}',
    "lower case before": f'{{{{ printf "ls-%s-%s" ({INSTANCE} | lowercase) (random 12) }}}}',
    "upper case": f'{{{{ uppercase (printf "ls-%s-%s" ({INSTANCE}) (random 12)) }}}}',
    "upper case of the instance": f"ls-{{{{ {INSTANCE} | uppercase }}}}-{{{{ random 12 }}}}",
    "another prefix": f'{{{{ printf "v-%s-%s" ({INSTANCE}) (random 12) }}}}',
    "no prefix": f'{{{{ printf "%s-%s" ({INSTANCE}) (random 12) }}}}',
    "something before": f'{{{{ printf "x-ls-%s-%s" ({INSTANCE}) (random 12) }}}}',
    "the display name as it is": '{{ printf "ls-%s-%s" .DisplayName (random 12) }}',
    "cut short": f'{{{{ printf "ls-%s-%s" ({INSTANCE} | truncate 20) (random 12) }}}}',
    "the role instead": '{{ printf "ls-%s-%s" .RoleName (random 12) }}',
    "only mentioned": '{{ printf "ls-%s" (random 12) }}{{/* .DisplayName */}}',
    "nothing behind": f'{{{{ printf "ls-%s" ({INSTANCE}) }}}}',
    "too much behind": f'{{{{ printf "ls-%s-%s" ({INSTANCE}) (random 21) }}}}',
    "a dash behind": f'{{{{ printf "ls-%s-%s-%s" ({INSTANCE}) (random 5) (random 5) }}}}',
    "an underscore": f'{{{{ printf "ls-%s_%s" ({INSTANCE}) (random 5) }}}}',
    "nothing that is known": f'{{{{ printf "ls-%s-%s" ({INSTANCE}) (uuid) }}}}',
    "a condition": "{{ if .DisplayName }}ls-{{ end }}",
    "half": "{{ .DisplayName",
    "brackets": "{{ (" + "(" * 2000,
    "an open bracket": '{{ ( "a" }}',
    "a bracket too many": '{{ "a" ) }}',
    "no value": "{{ }}",
    "an escape": '{{ "ls-\\x41" }}',
    "a format": '{{ printf "%5s" "ls" }}',
    "a number": '{{ random "12" }}',
}


@pytest.mark.parametrize("template", FOUND.values(), ids=FOUND)
def test_what_the_cutter_finds(template: str) -> None:
    assert misnamed(template) == ""


@pytest.mark.parametrize("template", LOST.values(), ids=LOST)
def test_what_it_does_not_find_is_refused(template: str) -> None:
    assert misnamed(template)


def test_the_name_that_is_made_is_said() -> None:
    why = misnamed(LOST["lower case"])
    assert f"it makes ls-{SAMPLE.lower()}-xxxxxxxxxxxx" in why
    assert f"looks for ls-{SAMPLE}-" in why


def test_the_functions_at_the_database_find_it() -> None:
    """The pattern is theirs, not a copy of it."""
    text = CUTTER.read_text()
    (prefix,) = re.findall(r"!~ '\^(ls-[^']*)\$' THEN\n        RAISE EXCEPTION 'not the prefix", text)
    (tail,) = re.findall(r"RETURN '\^' \|\| prefix \|\| '(-[^']*)\$'", text)
    name = login_name(USERNAME_TEMPLATE, SAMPLE)
    assert re.fullmatch(f"{prefix}{tail}", name)
    assert len(name) <= 63, "as long as a name may be at PostgreSQL"
    for template in LOST.values():
        try:
            wrong = login_name(template, SAMPLE)
        except ValueError:
            continue
        assert not re.fullmatch(f"ls-{SAMPLE}{tail}", wrong), template
