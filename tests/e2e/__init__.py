"""The whole system from outside: real processes, real TLS, the real command lines."""
