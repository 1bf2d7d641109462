-- Where a PgBouncer stands between workloads and the database: how it learns of the logins that Vault makes, which come
-- and go too fast for its auth_file. Run after cutter.sql, as a superuser, in each database that it leads to:
--
--   psql -v ON_ERROR_STOP=1 -d DATABASE -f pgbouncer.sql
--   psql -c '\password lockstep_pooler'
--
-- and say in pgbouncer.ini:
--
--   auth_type  = scram-sha-256
--   auth_user  = lockstep_pooler                          (its password stands in auth_file)
--   auth_query = SELECT login, verifier FROM lockstep.pooled($1)
--
-- Each login then comes to the server as itself, in session and in transaction mode, and is asked for anew whenever
-- somebody logs in. Once it was cut, PgBouncer does not know it any more, and the server connections that it keeps for it
-- are sessions like any others, which end. In transaction mode the client's own connection stays open until its next
-- statement, which waits for a server connection in vain and then fails: after query_wait_timeout (120 s where nothing
-- else is said; 5 s will do). Never let it come to the server as one user for everybody (user= in [databases]): nobody can
-- tell whose sessions are whose then, and none is ended.
--
-- The broker's own cutter may come through it in session or transaction mode (lockstep_cutter in auth_file); in statement
-- mode it is refused. Straight to the server is better: a cut should wait for nobody's pool.
BEGIN;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'lockstep_pooler') THEN
        CREATE ROLE lockstep_pooler LOGIN;
    END IF;
END
$$;
ALTER ROLE lockstep_pooler NOINHERIT NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS;
GRANT USAGE ON SCHEMA lockstep TO lockstep_pooler;

-- What a login is checked by, of Vault's logins alone and while they can log in. Only a superuser can read it, so this
-- function belongs to whoever runs this file.
CREATE OR REPLACE FUNCTION lockstep.pooled(wanted text) RETURNS TABLE (login text, verifier text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.rolname::text, a.rolpassword FROM pg_catalog.pg_authid a
    WHERE a.rolname = wanted AND a.rolcanlogin AND NOT a.rolsuper
      AND (wanted COLLATE "C") ~ '^ls-[A-Za-z]{1,8}-[0-9A-Za-z]{1,40}-[0-9A-Za-z]{1,20}$'
      AND (a.rolvaliduntil IS NULL OR a.rolvaliduntil > pg_catalog.now())
$$;
REVOKE ALL ON FUNCTION lockstep.pooled(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION lockstep.pooled(text) TO lockstep_pooler;

COMMIT;
