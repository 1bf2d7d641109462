"""Every port has tests that each of its plugs passes: a new port names them here, or this fails."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]

SUITES = {
    "Clock": "unit/adapters/test_clock_and_entropy.py",
    "Entropy": "unit/adapters/test_clock_and_entropy.py",
    "IdentityVerifier": "contract/test_identity.py",
    "EvidenceVerifier": "contract/test_evidence.py",
    "ManifestSource": "contract/test_manifests.py",
    "CredentialBackend": "contract/test_backends.py",
    "AccountKeeper": "contract/test_accounts.py",
    "TargetCutter": "contract/test_cutters.py",
    "Detector": "contract/test_detectors.py",
    "RateLimiter": "contract/test_limits.py",
    "Subscription": "contract/test_feeds.py",
    "RevocationFeed": "contract/test_feeds.py",
    "StateStore": "contract/state",
    "Transaction": "contract/state",
    "AttestationStore": "contract/state/test_state_attestations.py",
    "CodeSetStore": "contract/state",
    "LeaseStore": "contract/state/test_state_leases.py",
    "AccountStore": "contract/state/test_state_accounts.py",
    "RevocationStore": "contract/state/test_state_revocations.py",
    "ProposalStore": "contract/state/test_state_proposals.py",
    "DetectionStore": "contract/state/test_state_records.py",
    "DecisionStore": "contract/state/test_state_records.py",
    "RoleVersionStore": "contract/state/test_state_records.py",
    "ManifestStore": "contract/state",
    "ReplayStore": "contract/state",
}
"""Run by every plug, the fake one included."""

ALONE = {
    "ChallengeMint": "unit/adapters/test_challenges.py",
    "EnvelopeVerifier": "unit/crypto/test_dsse.py",
    "TokenSigner": "unit/crypto/test_ring.py",
    "ReceiptSigner": "unit/crypto/test_dsse.py",
    "AuditLog": "unit/adapters/test_audit.py",
    "RoleSource": "integration/test_reload_whole.py",
    "DetectorSource": "integration/test_reload_whole.py",
}
"""One plug and no fake: its own tests say what it keeps to."""


def test_every_port_names_the_tests_of_its_plugs() -> None:
    tree = ast.parse((ROOT / "broker" / "ports.py").read_text())
    ports = {
        item.name
        for item in tree.body
        if isinstance(item, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "Protocol" for base in item.bases)
    }
    assert ports == SUITES.keys() | ALONE.keys()
    for place in (*SUITES.values(), *ALONE.values()):
        assert (ROOT / "tests" / place).exists(), place
