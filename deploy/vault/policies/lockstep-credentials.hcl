# One token per instance has this: the credentials that roles name, and nothing else.

# ledger-tls
path "pki/issue/ledger" {
  capabilities = ["update"]
}

# ledger-db
path "team-db/creds/ledger" {
  capabilities = ["read"]
}
