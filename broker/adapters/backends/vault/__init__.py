"""Vault and OpenBao: dynamic secrets on one service token per attestation, taken back at the active node.

What a configuration says of one is here; the plug, which brings hvac, is in `backend`, for those who have one.
"""

from broker.adapters.backends.vault.engines import check_parameters, revocability_of, swept_path
from broker.adapters.backends.vault.login import (
    AppRoleLogin,
    CertificateLogin,
    JwtLogin,
    KubernetesLogin,
    Login,
    login_call,
)
from broker.adapters.backends.vault.options import VaultOptions

__all__ = [
    "AppRoleLogin",
    "CertificateLogin",
    "JwtLogin",
    "KubernetesLogin",
    "Login",
    "VaultOptions",
    "check_parameters",
    "login_call",
    "revocability_of",
    "swept_path",
]
