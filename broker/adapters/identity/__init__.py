"""Who a workload is: identity tokens of OIDC issuers and SPIFFE certificates."""
