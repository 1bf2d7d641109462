-- For the cautious: a database of the cutter's own, in which PUBLIC has nothing. Logins and sessions belong to the whole
-- cluster, so that they can be ended from any database; beside the application's tables the cutter has no business.
--
--   createdb lockstep
--   psql -v ON_ERROR_STOP=1 -d lockstep -f cutter.sql -f apart.sql           (as a superuser, after roles.sql)
--
-- and database = "lockstep" in [cutters.NAME]. cutter.sql is also run where Vault's connection goes, for its revocation
-- statement. Then nothing of lockstep_cutter is to come elsewhere, and no password of it is to count, in pg_hba.conf:
--
--   hostssl  lockstep  lockstep_cutter  BROKER/32  cert
--   host     all       lockstep_cutter  all        reject
--
-- What no REVOKE takes from a role is its own: it may change its password (with cert that opens nothing), its settings
-- for sessions to come, and read the catalogues. What PUBLIC may in every other database, it may too: make temporary
-- tables and large objects, run DO blocks with its own rights. All of that is taken away here.
BEGIN;

DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
    ) THEN
        RAISE EXCEPTION 'not a database of the cutter''s own: it has tables, whose users need what is taken away here';
    END IF;
    EXECUTE pg_catalog.format('REVOKE ALL ON DATABASE %I FROM PUBLIC', pg_catalog.current_database());
    EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE %I TO lockstep_cutter', pg_catalog.current_database());
END
$$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_creat(integer), pg_catalog.lo_create(oid),
    pg_catalog.lo_from_bytea(oid, bytea) FROM PUBLIC;

COMMIT;
