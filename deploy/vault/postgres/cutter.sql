-- The functions by which Lockstep ends logins and sessions of one attestation. Run after roles.sql, as a superuser,
-- in the database that Vault's connection and the broker's cutter come to (roles and sessions are the cluster's):
--
--   psql -v ON_ERROR_STOP=1 -d DATABASE -f cutter.sql
--
-- The cutter may also come to a database of its own, where PUBLIC has nothing that it could use: apart.sql.
--
-- Logins are named ls-ATTESTATION-RANDOM by Vault's username template (README.md). A prefix is ls-ATTESTATION: letters,
-- a dash, letters and digits. Whatever is not of that form is refused, so that no call reaches another kind of name, and
-- one attestation's prefix never covers another's: after it come exactly one dash and letters or digits to the end.
BEGIN;

-- Whoever had the schema, or a function of these names, before us could replace what runs with the rights of Vault's
-- admin from now on. What superusers and our own roles made is ours, from an earlier run.
DO $$
DECLARE
    strange text;
BEGIN
    SELECT string_agg(found.what, ', ') INTO strange
    FROM (
        SELECT 'schema lockstep' AS what, nspowner AS owner
        FROM pg_catalog.pg_namespace WHERE nspname = 'lockstep'
        UNION ALL
        SELECT 'function ' || p.oid::pg_catalog.regprocedure, p.proowner
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'lockstep'
    ) AS found
    JOIN pg_catalog.pg_roles r ON r.oid = found.owner
    WHERE NOT r.rolsuper AND NOT (found.what LIKE 'function %' AND r.rolname IN ('lockstep_vault', 'lockstep_ender'));
    IF strange IS NOT NULL THEN
        RAISE EXCEPTION 'not ours: %', strange
            USING HINT = 'See who made it, then drop schema lockstep and run this again.';
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS lockstep;
REVOKE ALL ON SCHEMA lockstep FROM PUBLIC;
GRANT USAGE ON SCHEMA lockstep TO lockstep_vault, lockstep_cutter, lockstep_ender;

-- The pattern of the logins of a prefix; raises for anything that is none.
CREATE OR REPLACE FUNCTION lockstep.logins_of(prefix text) RETURNS text
LANGUAGE plpgsql IMMUTABLE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF prefix IS NULL OR (prefix COLLATE "C") !~ '^ls-[A-Za-z]{1,8}-[0-9A-Za-z]{1,40}$' THEN
        RAISE EXCEPTION 'not the prefix of an attestation''s logins' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN '^' || prefix || '-[0-9A-Za-z]{1,20}$';
END
$$;

-- Takes LOGIN away from every login of an attestation; how many lost it. To be committed before end_sessions: whoever
-- is logging in while one statement does both survives it. Runs as Vault's admin, who made the logins.
CREATE OR REPLACE FUNCTION lockstep.cut(prefix text) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- A login may hold the row of its own role in an open transaction. It is not waited for: its session is ended next,
-- and the caller comes again.
SET lock_timeout = '20ms'
AS $$
DECLARE
    pattern CONSTANT text := lockstep.logins_of(prefix);
    victim text;
    taken integer := 0;
BEGIN
    FOR victim IN
        SELECT r.rolname FROM pg_catalog.pg_roles r
        WHERE r.rolcanlogin AND NOT r.rolsuper AND r.rolname ~ pattern
    LOOP
        -- Each in a block of its own: one that fails, or is gone meanwhile, keeps no other.
        FOR attempt IN 1 .. 5 LOOP
            BEGIN
                EXECUTE pg_catalog.format('ALTER ROLE %I NOLOGIN', victim);
                taken := taken + 1;
                EXIT;
            EXCEPTION
                WHEN lock_not_available OR undefined_object OR insufficient_privilege THEN
                    EXIT;
                WHEN OTHERS THEN
                    NULL;  -- "tuple concurrently updated" has no code of its own: look at the row anew
            END;
        END LOOP;
    END LOOP;
    RETURN taken;
END
$$;

-- Ends sessions of roles whose name matches, and those of roles that are no more: a login that was dropped while it was
-- logging in leaves a session that belongs to nobody and would live on. How many were told to end.
CREATE OR REPLACE FUNCTION lockstep.end_matching(pattern text) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    session integer;
    told integer := 0;
BEGIN
    -- Within a transaction the view shows what it showed first.
    PERFORM pg_catalog.pg_stat_clear_snapshot();
    FOR session IN
        SELECT a.pid FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
        WHERE a.usesysid <> 0 AND a.pid <> pg_catalog.pg_backend_pid()
          AND (r.oid IS NULL OR (r.rolname ~ pattern AND NOT r.rolsuper))
    LOOP
        BEGIN
            IF pg_catalog.pg_terminate_backend(session) THEN
                told := told + 1;
            END IF;
        EXCEPTION
            WHEN OTHERS THEN
                NULL;  -- look() still counts it
        END;
    END LOOP;
    RETURN told;
END
$$;

-- Ends the sessions of every login of an attestation; how many were told to end.
CREATE OR REPLACE FUNCTION lockstep.end_sessions(prefix text) RETURNS integer
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$ SELECT lockstep.end_matching(lockstep.logins_of(prefix)) $$;

-- What is left of an attestation: logins that can log in, and sessions. `starting` names sessions that nobody can tell
-- whose they are: past the check of the login (they hold or await the lock of their database) and not yet in
-- pg_stat_activity; from 18 on they stand there, of no user yet. Only one that was among them when LOGIN was taken away
-- can be a login that was.
CREATE OR REPLACE FUNCTION lockstep.look(prefix text, OUT logins integer, OUT sessions integer, OUT starting text[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pattern CONSTANT text := lockstep.logins_of(prefix);
    held text[];
BEGIN
    SELECT pg_catalog.count(*) INTO logins FROM pg_catalog.pg_roles r WHERE r.rolcanlogin AND r.rolname ~ pattern;
    -- Locks before sessions: who comes out of the one list in between stands in the other.
    SELECT pg_catalog.array_agg(DISTINCT l.pid || ':' || l.virtualtransaction) INTO held
    FROM pg_catalog.pg_locks l
    WHERE l.locktype = 'object' AND l.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND l.pid IS NOT NULL;
    PERFORM pg_catalog.pg_stat_clear_snapshot();
    SELECT pg_catalog.count(*) INTO sessions
    FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
    WHERE a.usesysid <> 0 AND (r.oid IS NULL OR r.rolname ~ pattern);
    SELECT COALESCE(pg_catalog.array_agg(h), '{}') INTO starting
    FROM pg_catalog.unnest(held) h
    WHERE NOT EXISTS (
        SELECT FROM pg_catalog.pg_stat_activity a
        WHERE a.pid = pg_catalog.split_part(h, ':', 1)::integer AND a.usesysid <> 0
    );
END
$$;

-- The same for one login, for Vault's revocation statement: LOGIN taken, sessions ended, the role dropped.
CREATE OR REPLACE FUNCTION lockstep.end_login(login text) RETURNS integer
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT lockstep.end_matching('^' || login || '$')
    WHERE (login COLLATE "C") ~ '^ls-[A-Za-z]{1,8}-[0-9A-Za-z]{1,40}-[0-9A-Za-z]{1,20}$'
$$;

CREATE OR REPLACE FUNCTION lockstep.retire(login text) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '5s'
AS $$
BEGIN
    IF login IS NULL OR (login COLLATE "C") !~ '^ls-[A-Za-z]{1,8}-[0-9A-Za-z]{1,40}-[0-9A-Za-z]{1,20}$' THEN
        RAISE EXCEPTION 'not the name of a login of ours' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- First, for a session may hold its own role's row; and last, for it may have come back meanwhile.
    PERFORM lockstep.end_login(login);
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = login) THEN
        EXECUTE pg_catalog.format('ALTER ROLE %I NOLOGIN', login);
        BEGIN
            EXECUTE pg_catalog.format('GRANT %I TO CURRENT_USER', login);
            EXECUTE pg_catalog.format('DROP OWNED BY %I', login);
            EXECUTE pg_catalog.format('DROP ROLE %I', login);
        EXCEPTION
            -- It can own something elsewhere, or have others depend on it: no reason to give it LOGIN back.
            WHEN OTHERS THEN
                RAISE WARNING '% cannot log in any more and was not dropped: %', login, SQLERRM;
        END;
        PERFORM lockstep.end_login(login);
    END IF;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lockstep FROM PUBLIC;
ALTER FUNCTION lockstep.cut(text) OWNER TO lockstep_vault;
ALTER FUNCTION lockstep.end_matching(text) OWNER TO lockstep_ender;
ALTER FUNCTION lockstep.end_sessions(text) OWNER TO lockstep_ender;
ALTER FUNCTION lockstep.end_login(text) OWNER TO lockstep_ender;
ALTER FUNCTION lockstep.look(text) OWNER TO lockstep_ender;
GRANT EXECUTE ON FUNCTION lockstep.logins_of(text) TO lockstep_vault, lockstep_ender;
GRANT EXECUTE ON FUNCTION lockstep.end_login(text), lockstep.retire(text) TO lockstep_vault;
GRANT EXECUTE ON FUNCTION lockstep.cut(text), lockstep.end_sessions(text), lockstep.look(text) TO lockstep_cutter;

COMMIT;
