# Optional, for a login that the broker has not: it deletes entities that nothing can use any more.

# which instances exist
path "identity/entity-alias/id" {
  capabilities = ["list"]
}

# deleting one revives its logins
path "identity/entity/id/*" {
  capabilities = ["delete", "read"]
}
