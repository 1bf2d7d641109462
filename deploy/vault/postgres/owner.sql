-- For each role whose rights Vault may hand out. Replace app_owner; as a superuser, or as an admin of that role.
--
-- The owner of the tables never logs in. Logins are members of it and act as it, so that what a migration makes
-- belongs to the owner and never stands in the way of dropping the login that made it.
DO $$
BEGIN
    -- Vault's admin can make others members and is none itself. On 15 its CREATEROLE suffices.
    IF pg_catalog.current_setting('server_version_num')::integer >= 160000 THEN
        EXECUTE 'GRANT app_owner TO lockstep_vault WITH ADMIN TRUE, INHERIT FALSE, SET FALSE';
    END IF;
END
$$;
