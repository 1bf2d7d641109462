-- Three roles for Lockstep and Vault (or OpenBao) at PostgreSQL 15 to 18. Run once a cluster, as a superuser:
--
--   psql -v ON_ERROR_STOP=1 -f roles.sql
--   psql -c '\password lockstep_vault' -c '\password lockstep_cutter'       (client certificates are better: apart.sql)
--
-- lockstep_vault   Vault's database admin: makes logins and drops them. No superuser, no other attribute.
-- lockstep_cutter  the broker's own login: may call three functions (cutter.sql) and nothing else that PUBLIC may not.
--                  apart.sql takes from it what PUBLIC may, in a database of its own.
-- lockstep_ender   nobody logs in as it and nobody is a member: it owns the function that ends sessions.
BEGIN;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'lockstep_vault') THEN
        CREATE ROLE lockstep_vault LOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'lockstep_cutter') THEN
        CREATE ROLE lockstep_cutter LOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'lockstep_ender') THEN
        CREATE ROLE lockstep_ender NOLOGIN;
    END IF;
END
$$;

-- CREATEROLE is what makes and changes logins. From 16 on it reaches only the roles that it made itself; on 15 it
-- reaches every role that is no superuser, whatever is granted or not: a reason to keep this login to Vault alone.
ALTER ROLE lockstep_vault INHERIT CREATEROLE NOSUPERUSER NOCREATEDB NOREPLICATION NOBYPASSRLS;

ALTER ROLE lockstep_cutter NOINHERIT NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS
    CONNECTION LIMIT 32;
-- What the broker is told to be cut must be durable when it is told, however the server is set.
ALTER ROLE lockstep_cutter SET synchronous_commit = on;

-- Ending a session takes the rights of its role with INHERIT, or pg_signal_backend, or superuser. CREATEROLE does not
-- suffice on any of 15, 16 and 17, nor does the ADMIN OPTION that the maker of a role has from 16 on. Membership in every
-- login would have to be granted by each creation statement, hands Vault's admin what each login has, and does not reach
-- a session whose role was dropped while it logged in. pg_signal_backend does, but a login that has it can end the
-- sessions of everybody. So a role has it that nobody can become, and that owns nothing but functions with a checked name.
ALTER ROLE lockstep_ender INHERIT NOLOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS;
GRANT pg_signal_backend TO lockstep_ender;

COMMIT;
