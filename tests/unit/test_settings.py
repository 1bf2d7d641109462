"""A configuration is taken whole or refused with every fault, each with its place and what to do."""

import os
import re
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from broker.adapters.clock import SystemClock
from broker.crypto.keyfiles import public_pem
from broker.dev import make
from broker.dev.files import kept_key
from broker.model.detection import DetectionKind
from broker.model.evidence import Assurance
from broker.model.identity import WorkloadIdentity
from broker.model.role import Action, Mode, Revocability
from broker.settings import ConfigurationRefused, load


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every key file and a configuration that holds."""
    folder = tmp_path_factory.mktemp("settings") / "dev"
    make(folder, SystemClock())
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    copy = tmp_path / "dev"
    shutil.copytree(made, copy)
    return copy


def refusal(folder: Path, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigurationRefused) as caught:
        load(folder / "lockstep.toml", environment or {})
    lines = [str(problem) for problem in caught.value.problems]
    assert str(caught.value) == "\n".join(lines)
    assert all("\n" not in line for line in lines)
    return lines


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "lockstep.toml"
    text = path.read_text()
    assert old in text, old
    path.write_text(text.replace(old, new, 1))


def append(folder: Path, text: str) -> None:
    with (folder / "lockstep.toml").open("a") as file:
        file.write(text)


def test_a_sound_configuration_becomes_nouns(folder: Path) -> None:
    settings = load(folder / "lockstep.toml", {})
    role = settings.book.roles["dev"]
    assert (role.mode, role.assurance, role.ttl) == (Mode.OBSERVE, Assurance.SELF, {Assurance.SELF: 300.0})
    assert (role.backend, role.parameters) == ("jwt", {"audience": "dev"})
    assert role.revocability is Revocability.INSTANT
    detector = settings.book.detectors["dev"]
    assert detector.action_for("memfd") is Action.REVOKE
    assert detector.rate.period == 60.0
    assert settings.book.operators["dev"].permits("revoke:digest")
    assert settings.book.resource_servers["dev"].audiences == {"dev"}
    assert settings.book.applications["dev"].threshold == 1
    app = WorkloadIdentity("dev", "https://identity.lockstep.invalid", "dev-app", 0.0)
    assert [item.name for item in settings.book.roles_for(app)] == ["dev"]


def test_paths_are_relative_to_their_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    settings = load(folder / "lockstep.toml", {})
    assert settings.server.tls.key == folder / "server.key"
    assert settings.tables.signers["dev"] == folder / "signer.pub"


def test_a_role_version_is_the_digest_of_what_it_says(folder: Path) -> None:
    first = load(folder / "lockstep.toml", {}).book.roles["dev"]
    assert load(folder / "lockstep.toml", {}).book.roles["dev"].version == first.version
    edit(folder, 'ttl = "5m"', "ttl = { self = 300 }")
    assert load(folder / "lockstep.toml", {}).book.roles["dev"].version == first.version, (
        "the same, said otherwise"
    )
    edit(folder, "ttl = { self = 300 }", 'ttl = "6m"')
    changed = load(folder / "lockstep.toml", {}).book.roles["dev"]
    assert changed.version != first.version
    assert '"ttl":{"self":360000}' in changed.text


LEAST = """
[roles.least]
mode = "enforce"
identity = { from = "dev", subject = "least" }
manifests = ["dev"]
backend = { use = "jwt", audience = "least" }
ttl = "5m"
[detectors.least]
kind = "standard"
keys = ["least.secret"]
"""


def test_what_a_role_and_a_detector_do_not_say_is_the_careful_thing(folder: Path) -> None:
    (folder / "least.secret").touch(0o600)
    shutil.copy(folder / "detector.secret", folder / "least.secret")
    append(folder, LEAST)
    book = load(folder / "lockstep.toml", {}).book
    role, detector = book.roles["least"], book.detectors["least"]
    assert (role.after_revocation, role.silence.then, role.silence.grace) == ("hold", "drop", 30.0)
    assert (role.revocability, role.static_accepted, role.possession_required) == ("at_target", False, False)
    assert (role.assurance, role.max_life, role.rotate, role.owner) == (Assurance.SELF, 86_400.0, None, "")
    assert {detector.action_for(kind) for kind in DetectionKind} == {Action.OBSERVE}
    assert (detector.cap.instances, detector.cap.share, detector.cap.period) == (3, 0.2, 600.0)
    assert (detector.cap.beyond, detector.rate.count, detector.rate.period) == ("hold", 100, 60.0)


# --- one fault, one line ------------------------------------------------------------------------------

ROLE = "[roles.dev]\n"
LISTEN = "[listen]\n"

FAULTS = [
    # shape and unknown keys
    ("[tls]\n", '[tls]\ncertifcate = "x"\n', 'tls.certifcate: unknown key; did you mean "certificate"?'),
    (LISTEN, "[lisen]\nx = 1\n[listen]\n", 'lisen: unknown key; did you mean "listen"?'),
    (ROLE, ROLE + 'asurance = "self"\n', 'roles.dev.asurance: unknown key; did you mean "assurance"?'),
    (
        ROLE,
        ROLE + 'silence = { graze = "3s" }\n',
        'roles.dev.silence.graze: unknown key; did you mean "grace"?',
    ),
    (ROLE, ROLE + "xyzzy = 1\n", "roles.dev.xyzzy: unknown key; known: "),
    ('audience = "dev" }', 'audience = "dev", path = "x" }', "roles.dev.backend.path: unknown key"),
    ('mode = "observe"', 'mode = "obsrve"', 'roles.dev.mode: "obsrve" is not one of "observe", "enforce"'),
    ('mode = "observe"\n', "", "roles.dev.mode: is missing; add it"),
    ("include = []", 'include = "x"', "include: is no list of file patterns"),
    ("include = []", 'include = ["absent.toml"]', 'include: "absent.toml": no such file'),
    ('manifests = ["dev"]', "manifests = []", "roles.dev.manifests: is empty; name at least one"),
    ('manifests = ["dev"]', 'manifests = "dev"', "roles.dev.manifests: is no list"),
    ('owner = "dev"', "owner = 7", "roles.dev.owner: is no text"),
    ("[roles.dev]", '[roles."a b"]', "roles.'a b': is no name; use letters"),
    ('cluster = "lockstep-dev"', 'cluster = ""', "cluster: is no name"),
    # values
    ('ttl = "5m"', 'ttl = "5 minutes"', "roles.dev.ttl.self: is no duration; write for example"),
    ('ttl = "5m"', "ttl = true", "roles.dev.ttl.self: is no duration"),
    ('ttl = "5m"', 'ttl = "0s"', "roles.dev.ttl.self: must be longer than nothing"),
    ('ttl = "5m"', "ttl = {}", "roles.dev.ttl: is empty"),
    ('ttl = "5m"', 'ttl = { slef = "5m" }', '"slef" is no assurance level; did you mean "self"?'),
    ("[limits]\n", '[limits]\nevidence = "4 parsecs"\n', "limits.evidence: is no size"),
    ("[limits]\n", "[limits]\nstreams = 0\n", "limits.streams: input should be greater than 0"),
    ('tls = "127.0.0.1:', 'tls = "127.0.0.1.', "listen.tls: is no address"),
    ('issuer = "https://127', 'issuer = "https://a|b', 'issuer: has a "|"'),
    ('issuer = "https://identity', 'issuer = "https://a|identity', 'identity.dev.issuer: has a "|"'),
    ('issuer = "https://127', 'issuer = "ftp://127', "issuer: is no issuer URL"),
    ('issuer = "https://127', 'issuer = "https://me:pw@127', "issuer: has a user or password in it"),
    ('algorithms = ["ES256"]', 'algorithms = ["HS256"]', 'identity.dev: algorithm "HS256" cannot be used'),
    ('algorithms = ["ES256"]', 'algorithms = ["none"]', 'identity.dev: algorithm "none" cannot be used'),
    (
        'jwks_file = "identity.jwks"',
        'jwks_url = "http://x.example/k"',
        "identity.dev: its keys would be fetched",
    ),
    ('keys = ["detector.secret"]', 'keys = ["whsec_c2VjcmV0"]', "detectors.dev.keys.0: holds a key itself"),
    ('keys = ["detector.secret"]\n', "", "detectors.dev: cannot prove who it is"),
    ('subject = "dev-app"', 'subject = "*"', 'roles.dev.identity.subject: "*" accepts everybody'),
    ('subject = "dev-app"', 'subject = "**"', 'roles.dev.identity.subject: "**" accepts everybody'),
    (
        'from = "dev", subject = "dev-app"',
        'from = "mesh", spiffe_id = "spiffe://*/**"',
        'roles.dev.identity.spiffe_id: "spiffe://*/**" accepts everybody',
    ),
    (', subject = "dev-app"', "", "roles.dev.identity: accepts nobody"),
    ('"lift", ', '"lft", ', 'operators.dev: may: "lft" is no right; did you mean "lift"?'),
    # plugs
    (
        'kind = "jwt"',
        'kind = "consul"',
        'backends.jwt.kind: there is no kind "consul"; known: gate, jwt, vault',
    ),
    ('kind = "jwt"', 'kind = "jtw"', 'backends.jwt.kind: there is no kind "jtw"; did you mean "jwt"?'),
    ('kind = "jwt"\n', "", 'backends.jwt.kind: is missing; one of "gate", "jwt", "vault"'),
    ('kind = "spiffe"', 'kind = "spife"', 'there is no kind "spife"; did you mean "spiffe"?'),
    ('kind = "standard"', 'kind = "falco"', 'detectors.dev.kind: there is no kind "falco"; known: standard'),
    # what is understood and not enforced
    (
        ROLE,
        ROLE + 'rotate = { every = "5m", overlap = "10m" }\n',
        "roles.dev.rotate: overlap is longer than every",
    ),
    (
        ROLE,
        ROLE + 'rotate = { every = "5s", overlap = "1s" }\n',
        "roles.dev.rotate: every is shorter than 10 s",
    ),
    (ROLE, ROLE + 'rotate = { every = "8h" }\n', "roles.dev.rotate.overlap"),
    (
        ROLE,
        ROLE + 'rotate = { every = "8h", overlap = "1m" }\n',
        "roles.dev.rotate: every renewal makes a new token",
    ),
    (
        '"introspect", "revoke:*"]',
        '"introspect", "revoke:lease"]\nquorum = { "revoke:digest" = 2 }',
        'operators.dev: quorum: "revoke:digest" is not among may',
    ),
    (
        'may = ["read",',
        'quorum = { "revoke:digests" = 2 }\nmay = ["read",',
        'operators.dev: quorum: "revoke:digests" is no right to revoke; did you mean "revoke:digest"?',
    ),
    (
        'may = ["read",',
        'quorum = { "lift" = 2 }\nmay = ["read",',
        'operators.dev: quorum: "lift" is no right to revoke',
    ),
    (
        'may = ["read",',
        'quorum = { "revoke:*" = 1 }\nmay = ["read",',
        "operators.dev: quorum: one operator suffices without it",
    ),
    (
        "may = [",
        'scope = { owners = ["a"] }\nmay = [',
        "operators.dev: scope does not narrow lower, publish, retire, withdraw",
    ),
    (
        'may = ["read", "explain", "publish", "retire", "withdraw", "lower", ',
        'scope = {}\nmay = ["read", ',
        "operators.dev.scope: narrows nothing; give owners or roles",
    ),
    (
        'may = ["read", "explain", "publish", "retire", "withdraw", "lower", ',
        'scope = { owners = ["deb"] }\nmay = ["read", ',
        'operators.dev.scope.owners: no role is owned by "deb"; did you mean "dev"?',
    ),
    (
        'may = ["read", "explain", "publish", "retire", "withdraw", "lower", ',
        'scope = { roles = ["pay-*"] }\nmay = ["read", ',
        'operators.dev.scope.roles: no role is called "pay-*"; known: dev',
    ),
    # types that nobody expects
    ('ttl = "5m"', 'ttl = "5m"\nassurance = ["self"]', "roles.dev.assurance: "),
    ('ttl = "5m"', 'ttl = ["5m"]\nassurance = { a = 1 }', "roles.dev.ttl: is no table"),
    ("[limits]\n", f"[limits]\ncall = {'9' * 400}\n", "limits.call: must be longer than nothing and shorter"),
    ("[limits]\n", "[limits]\ncall = nan\n", "limits.call: must be longer than nothing and shorter"),
    # between tables
    ('use = "jwt"', 'use = "jwr"', 'roles.dev.backend.use: there is no [backends.jwr]; did you mean "jwt"?'),
    ('manifests = ["dev"]', 'manifests = ["dve"]', "roles.dev.manifests: there is no [manifests.dve]"),
    ('from = "dev", subject = "dev-app"', 'from = "dex", subject = "dev-app"', "there is no [identity.dex]"),
    (
        'from = "dev", subject = "dev-app"',
        'from = "dev", spiffe_id = "spiffe://a/b"',
        "subjects are no SPIFFE IDs",
    ),
    ('from = "dev", subject = "dev-app"', 'from = "mesh", spiffe_id = "spiffe://a/b"', "can match nobody"),
    (
        'signers = ["dev"]',
        'signers = ["dve"]',
        'manifests.dev.signers: "dve" is not in [signers]; did you mean "dev"?',
    ),
    ('signers = ["dev"]', 'signers = ["dev", "dev"]', "manifests.dev.signers: names one signer twice"),
    (
        'signers = ["dev"]',
        'signers = ["dev"]\nthreshold = 2',
        "manifests.dev.threshold: 2 of 1 signers can never",
    ),
    (
        'signers = ["dev"]',
        'signers = ["dev"]\nincludes = ["bse"]',
        "dev.includes: there is no [manifests.bse]",
    ),
    (
        'signers = ["dev"]',
        'signers = ["dev"]\nincludes = ["dev"]',
        "dev.includes: includes itself: dev → dev",
    ),
    ('dev = "signer.pub"', 'dev = "signer.pub"\nd2 = "signer.pub"', "signers.d2: has the key of dev"),
    ('dev = "signer.pub"', 'dev = "absent.pub"', "absent.pub: cannot be read: No such file"),
    ('dev = "signer.pub"', 'dev = "signer.key"', "signer.key: not a PEM public key"),
    (', audience = "dev" }', " }", "roles.dev.backend.audience: is missing; say who checks the token"),
    ('audience = "dev" }', 'audience = "lockstep-dev" }', "is an audience of the broker itself"),
    ('audience = "dev" }', 'audience = "lockstep-dev-identity" }', "is an audience of the broker itself"),
    ('audience = "dev" }', 'audience = "lockstep-gate" }', "is an audience of the broker itself"),
    ('audiences = ["dev"]', 'audiences = ["lockstep-dev"]', "resource_servers.dev.audiences: "),
    (
        'kind = "jwt"',
        'kind = "jwt"\naudience = "other"',
        '"dev" contradicts [backends.jwt], which says "other"',
    ),
    (
        'audience = "dev" }',
        'audience = "dev", claims = { sub = "x" } }',
        "claims.sub: the broker alone says this",
    ),
    ('keys = ["detector.secret"]', 'keys = ["signer.key"]', "signer.key: a webhook key begins with whsec_"),
    ('ttl = "5m"', 'ttl = "1s"', "roles.dev.ttl.self: shorter than limits.ttl_shortest (10 s); lengthen it"),
    (
        'ttl = "5m"',
        'ttl = "25h"\nmax_life = "30h"',
        "roles.dev.ttl.self: longer than limits.ttl_longest (86400 s)",
    ),
    (
        'ttl = "5m"',
        'ttl = "5m"\nmax_life = "1m"',
        "roles.dev.ttl.self: longer than max_life (60 s); shorten it",
    ),
    (
        'ttl = "5m"',
        'ttl = { witnessed = "5m" }',
        'nothing says how long a credential lives at "self"',
    ),
    (
        'subject = "dev-app"',
        'subject = "a", claims = { zone = "eu" }',
        "identity.claims.zone: [identity.dev] does not",
    ),
    # the server
    ('client_ca = "mesh-ca.crt"\n', "", "tls.client_ca: is missing"),
    ('key = "server.key"', 'key = "signer.key"', "server.crt: is not the certificate of"),
    ('certificate = "server.crt"', 'certificate = "signer.pub"', "signer.pub: not PEM certificates"),
    (
        'receipts = "receipts.key"',
        'receipts = "credentials.key"',
        "receipts: is the key of keys.credentials.active",
    ),
    ('receipts = "receipts.key"', 'receipts = "server.crt"', "keys.receipts: "),
    ('credentials = "credentials.key"', "credentials = { }", "keys.credentials.active: is missing"),
    ('path = "state/lockstep.db"', 'path = "stte/lockstep.db"', "no such folder; run: mkdir -m 700"),
]


@pytest.mark.parametrize(("old", "new", "expected"), FAULTS, ids=[fault[2][:50] for fault in FAULTS])
def test_a_fault_is_told_with_its_place(folder: Path, old: str, new: str, expected: str) -> None:
    edit(folder, old, new)
    lines = refusal(folder)
    hits = [line for line in lines if expected in line]
    assert hits, lines
    assert "lockstep.toml" in hits[0]


def test_all_faults_are_told_at_once(folder: Path) -> None:
    edit(folder, 'mode = "observe"', 'mode = "x"')
    edit(folder, 'dev = "signer.pub"', 'dev = "absent.pub"')
    edit(folder, "[tls]\n", "[tls]\nfoo = 1\n")
    assert len(refusal(folder)) == 3


def test_possession_must_agree_within_an_audience(folder: Path) -> None:
    append(
        folder,
        '[roles.two]\nmode = "observe"\nidentity = { from = "dev", subject = "b" }\nmanifests = ["dev"]\n'
        'backend = { use = "jwt", audience = "dev" }\nttl = "5m"\npossession = "required"\n',
    )
    assert 'audience "dev" has possession = "bearer" in role dev' in refusal(folder)[0]


def test_a_ttl_below_the_assurance_is_told(folder: Path) -> None:
    edit(folder, 'ttl = "5m"', 'assurance = "witnessed"\nttl = { self = "5m", witnessed = "10m" }')
    assert 'roles.dev.ttl.self: is below assurance ("witnessed")' in refusal(folder)[0]


def test_a_long_way_around_is_a_circle(folder: Path) -> None:
    edit(folder, 'signers = ["dev"]', 'signers = ["dev"]\nincludes = ["a"]')
    append(folder, '[manifests.a]\nsigners = ["dev"]\nincludes = ["b"]\n')
    append(folder, '[manifests.b]\nsigners = ["dev"]\nincludes = ["dev"]\n')
    assert any(
        "manifests.dev.includes: includes itself: dev → a → b → dev" in line for line in refusal(folder)
    )


# --- files --------------------------------------------------------------------------------------------


def test_a_secret_that_others_can_read_is_refused(folder: Path) -> None:
    (folder / "detector.secret").chmod(0o640)
    assert "detectors.dev.keys: " in refusal(folder)[0]
    assert "run: chmod 600" in refusal(folder)[0]


def test_a_private_key_that_others_can_read_is_refused(folder: Path) -> None:
    (folder / "credentials.key").chmod(0o644)
    (folder / "server.key").chmod(0o644)
    assert {re.split(": ", line)[1] for line in refusal(folder)} == {"keys.credentials.active", "tls.key"}


def test_no_message_repeats_a_secret(folder: Path) -> None:
    secret = (folder / "detector.secret").read_text().strip()
    edit(folder, 'keys = ["detector.secret"]', f'keys = ["{secret}"]')
    assert secret not in "\n".join(refusal(folder))


def test_no_toml(folder: Path) -> None:
    (folder / "lockstep.toml").write_text("a = [\n")
    assert "lockstep.toml: is no TOML: " in refusal(folder)[0]


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("a = " + "[" * 20_000, {}),
        ("", {"LOCKSTEP_LISTEN__TLS": "[" * 20_000}),
        ('certificate = "~nobody-of-this-name/x"', {}),
    ],
    ids=["a file", "a variable", "a home"],
)
def test_what_no_parser_takes_is_refused_in_a_line(
    folder: Path, text: str, environment: dict[str, str]
) -> None:
    if text.startswith("certificate"):
        edit(folder, 'certificate = "server.crt"', text)
    else:
        edit(folder, "include = []", f"include = []\n{text}\n" if text else "include = []")
    [line] = refusal(folder, environment)
    assert "nested too deeply" in line or "is no address" in line or "there is no home of ~nobody" in line


def test_a_pipe_in_place_of_a_file_holds_nobody_up(folder: Path) -> None:
    os.mkfifo(folder / "team.toml")
    edit(folder, "include = []", 'include = ["team.toml"]')
    [line] = refusal(folder)
    assert "team.toml: not a regular file" in line


def test_a_file_that_anybody_can_change_decides_nothing(folder: Path) -> None:
    (folder / "team.toml").write_text("")
    (folder / "team.toml").chmod(0o666)
    edit(folder, "include = []", 'include = ["team.toml"]')
    [line] = refusal(folder)
    assert "team.toml: anybody can change it (mode 0666); run: chmod o-w" in line


OTHER = """
[identity.other]
kind = "oidc"
issuer = "https://o.example"
audience = "a"
algorithms = ["ES256"]
"""


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            '[identity.other]\nkind = "spiffe"\ntrust_domain = "b.example"\nbundle = "server.crt"\n',
            "identity.other.bundle: …server.crt: ",
        ),
        (
            '[identity.other]\nkind = "spiffe"\ntrust_domain = "b.example"\nbundle = "absent.pem"\n',
            "identity.other.bundle: …absent.pem: cannot be read: No such file",
        ),
        (
            OTHER + 'jwks_file = "server.crt"\n',
            "identity.other.jwks_file: …server.crt: ",
        ),
        (
            OTHER + 'ca_file = "identity.jwks"\n',
            "identity.other.ca_file: …identity.jwks: not a PEM file",
        ),
        (
            '[manifests.pay]\nsigners = ["dev"]\nsource = "manifests.d"\n',
            "manifests.pay.source: …manifests.d: no such folder; create it",
        ),
    ],
    ids=["a leaf as bundle", "no bundle", "no key set", "no authorities", "no folder"],
)
def test_what_a_broker_would_not_start_with_is_told(folder: Path, table: str, expected: str) -> None:
    # `serve` reads these, and so does `check-config`.
    append(folder, table)
    key, _, rest = expected.partition("…")
    assert any(key in line and f"{folder}/{rest}" in line for line in refusal(folder)), refusal(folder)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationRefused, match="cannot be read: No such file"):
        load(tmp_path / "absent.toml", {})


def test_no_utf8(folder: Path) -> None:
    (folder / "lockstep.toml").write_bytes(b"cluster = '\xff'")
    assert "is not UTF-8 text" in refusal(folder)[0]


# --- includes -----------------------------------------------------------------------------------------


def test_an_included_file_has_roles_and_its_own_paths(folder: Path) -> None:
    team = folder / "roles.d" / "pay"
    team.mkdir(parents=True)
    (team / "pay.pub").write_bytes(public_pem(ed25519.Ed25519PrivateKey.generate().public_key()))
    (team / "pay.toml").write_text('[signers]\npay = "pay.pub"\n[manifests.pay]\nsigners = ["pay"]\n')
    edit(folder, "include = []", 'include = ["roles.d/*/*.toml", "nothing.d/*.toml"]')
    settings = load(folder / "lockstep.toml", {})
    assert settings.tables.signers["pay"] == team / "pay.pub"
    assert settings.book.applications["pay"].signers == ("pay",)


def test_a_fault_names_the_included_file(folder: Path) -> None:
    (folder / "team.toml").write_text("[manifests.pay]\nsigners = []\n")
    edit(folder, "include = []", 'include = ["team.toml"]')
    assert "team.toml: manifests.pay.signers: is empty" in refusal(folder)[0]


def test_a_name_stands_in_one_file(folder: Path) -> None:
    (folder / "team.toml").write_text('[manifests.dev]\nsigners = ["dev"]\n')
    edit(folder, "include = []", 'include = ["team.toml"]')
    assert re.search(r"team.toml: manifests.dev: stands in .*lockstep.toml too", refusal(folder)[0])


def test_a_team_cannot_change_the_server(folder: Path) -> None:
    (folder / "team.toml").write_text('[keys]\nreceipts = "mine"\n')
    edit(folder, "include = []", 'include = ["team.toml"]')
    assert re.search(r"team.toml: keys: belongs into the main file", refusal(folder)[0])


def test_includes_in_a_circle(folder: Path) -> None:
    (folder / "a.toml").write_text('include = ["b.toml"]\n')
    (folder / "b.toml").write_text('include = ["a.toml"]\n')
    edit(folder, "include = []", 'include = ["a.toml"]')
    assert "b.toml: include: includes itself: " in refusal(folder)[0]


# --- the environment ----------------------------------------------------------------------------------


def test_reflection_is_on_where_nobody_says_otherwise(folder: Path) -> None:
    file = folder / "lockstep.toml"
    file.write_text(file.read_text().replace("reflection = true\n", ""))
    assert "reflection" not in file.read_text()
    assert load(file, {}).server.reflection is True


def test_the_environment_overrides(folder: Path) -> None:
    settings = load(
        folder / "lockstep.toml",
        {
            "LOCKSTEP_LISTEN__TLS": "127.0.0.1:1",
            "LOCKSTEP_LIMITS__EVIDENCE": "1MiB",
            "LOCKSTEP_LIMITS__STREAMS": "7",
            "LOCKSTEP_REFLECTION": "false",
            "LOCKSTEP_ROLES__DEV__MODE": "enforce",
            "LOCKSTEP_MANIFESTS__DEV__SIGNERS": '["dev"]',
            "LOCKSTEP_CLUSTER": "eu-1",
            "OTHER": "x",
        },
    )
    assert str(settings.server.listen.tls) == "127.0.0.1:1"
    assert (settings.server.limits.evidence, settings.server.limits.streams) == (1024**2, 7)
    assert settings.server.reflection is False
    assert settings.book.roles["dev"].mode is Mode.ENFORCE
    assert settings.server.cluster == "eu-1"


def test_a_fault_names_the_variable(folder: Path) -> None:
    lines = refusal(folder, {"LOCKSTEP_ROLES__DEV__MODE": "off"})
    assert lines == ['LOCKSTEP_ROLES__DEV__MODE: roles.dev.mode: "off" is not one of "observe", "enforce"']


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("LOCKSTEP_LISEN__TLS", 'sets no key of the configuration; did you mean "listen"?'),
        ("LOCKSTEP_ROLES__DVE__MODE", 'names none of [roles.…]; did you mean "dev"?'),
        ("LOCKSTEP_LISTEN__TSL", 'unknown key; did you mean "tls"?'),
        ("LOCKSTEP_CLUSTER__NAME", "cluster has no keys below it"),
        ("LOCKSTEP_LISTEN____TLS", "sets no key"),
    ],
)
def test_an_unknown_variable_is_refused(folder: Path, variable: str, expected: str) -> None:
    assert expected in refusal(folder, {variable: "x"})[0]


def test_variables_of_others_do_not_matter(folder: Path) -> None:
    load(
        folder / "lockstep.toml",
        {"LOCKSTEP_ADDRESS": "a:1", "LOCKSTEP_SERVICE_HOST": "10.0.0.1", "LOCKSTEP_": "x"},
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_key_is_told(folder: Path) -> None:
    (folder / "receipts.key").chmod(0)
    assert "keys.receipts: " in refusal(folder)[0]


def test_a_table_that_is_none(folder: Path) -> None:
    (folder / "team.toml").write_text('signers = "x"\n')
    edit(folder, "include = []", 'include = ["team.toml"]')
    assert "team.toml: signers: is no table; write [signers.NAME]" in refusal(folder)[0]


GATE = """
[backends.other-vault]
kind = "vault"
address = "https://vault.acme.example"
auth = { method = "kubernetes", role = "lockstep", token_file = "/run/secrets/token" }
[backends.gate]
kind = "gate"
vault = "other-vault"
mount = "lockstep"
audience = "https://vault.acme.example"
"""


def test_a_gate_needs_its_key(folder: Path) -> None:
    append(folder, GATE)
    [line] = refusal(folder)
    assert "backends.gate: signs with keys.gate, and there is none" in line


def test_a_gate_with_its_key_stands_on_its_vault(folder: Path) -> None:
    kept_key(folder / "gate.pem")
    append(folder, GATE)
    edit(folder, "[keys]\n", '[keys]\ngate = "gate.pem"\n')
    load(folder / "lockstep.toml", {})
    edit(folder, 'vault = "other-vault"', 'vault = "other-vualt"')
    [line] = refusal(folder)
    assert 'there is no [backends.other-vualt]; did you mean "other-vault"?' in line
    edit(folder, 'vault = "other-vualt"', 'vault = "jwt"')
    [line] = refusal(folder)
    assert '[backends.jwt] is of kind "jwt"' in line
    edit(folder, 'vault = "jwt"', 'vault = "other-vault"\nttl = "5m"')
    [line] = refusal(folder)
    assert "ttl must be from 10 s to 60 s" in line


def test_no_purpose_shares_the_gates_key_or_audience(folder: Path) -> None:
    append(folder, GATE)
    edit(folder, "[keys]\n", '[keys]\ngate = "credentials.key"\n')
    edit(folder, 'audience = "dev" }', 'audience = "https://vault.acme.example" }')
    lines = refusal(folder)
    assert any("keys.gate.active" in line and "give every purpose a key of its own" in line for line in lines)
    assert any("backend.audience" in line and "a gate" in line for line in lines)
