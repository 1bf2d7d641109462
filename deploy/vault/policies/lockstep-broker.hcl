# The broker's own login. It makes tokens and takes them back; it reads no secret.

# one service token per instance, through the token role and never beside it
path "auth/token/create/lockstep" {
  capabilities = ["update"]
  allowed_parameters = {
    "entity_alias" = ["ls-*"]
    "ttl" = []
    "display_name" = []
    "policies" = []
    "no_default_policy" = [true]
    "renewable" = [true]
    "type" = ["service"]
  }
  required_parameters = ["entity_alias", "ttl"]
}

# while the attestation lives
path "auth/token/renew-accessor" {
  capabilities = ["update"]
}

# is it gone?
path "auth/token/lookup-accessor" {
  capabilities = ["update"]
}

# it can revoke any token whose accessor it learns
path "auth/token/revoke-accessor" {
  capabilities = ["update"]
}

# its own token
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

# its own token
path "auth/token/renew-self" {
  capabilities = ["update"]
}

# its own token, when it ends
path "auth/token/revoke-self" {
  capabilities = ["update"]
}

# the accessor of the token store, which aliases are under
path "sys/auth" {
  capabilities = ["read"]
}

# the entity of an alias whose token was never learned
path "identity/lookup/entity" {
  capabilities = ["update"]
}

# which instances exist
path "identity/entity-alias/id" {
  capabilities = ["list"]
}

# the cut. Without the limit this is root in disguise: whoever may write an entity may
# give it policies. With it, it can still disable any entity of this namespace
path "identity/entity/id/*" {
  capabilities = ["update"]
  allowed_parameters = {
    "disabled" = [true]
  }
  required_parameters = ["disabled"]
}

# is it gone?
path "sys/leases/lookup" {
  capabilities = ["update"]
  allowed_parameters = {
    "lease_id" = ["pki/issue/ledger/*", "team-db/creds/ledger/*"]
  }
}

# only our leases
path "sys/leases/renew" {
  capabilities = ["update"]
  allowed_parameters = {
    "lease_id" = ["pki/issue/ledger/*", "team-db/creds/ledger/*"]
    "increment" = []
  }
}

# only our leases
path "sys/leases/revoke" {
  capabilities = ["update"]
  allowed_parameters = {
    "lease_id" = ["pki/issue/ledger/*", "team-db/creds/ledger/*"]
    "sync" = []
  }
}

# the sweep finds what no row knows
path "sys/leases/lookup/team-db/creds/ledger/*" {
  capabilities = ["list", "sudo"]
}

# ids of leases that could not be revoked, for the alarm
path "sys/leases" {
  capabilities = ["read", "sudo"]
}

# certificates, into the list of revoked ones
path "pki/revoke" {
  capabilities = ["update"]
}

# what it may itself, for vault check
path "sys/capabilities-self" {
  capabilities = ["update"]
}

# the same, listed
path "sys/internal/ui/resultant-acl" {
  capabilities = ["read"]
}
