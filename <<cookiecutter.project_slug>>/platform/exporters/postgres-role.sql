-- The role of the PostgreSQL exporter: it reads what the server counts (pg_monitor) and no table.
-- Once in each server, by a superuser or a role that may grant pg_monitor; again to change the password:
--   psql --variable password="$PASSWORD" --file postgres-role.sql postgres
\set ON_ERROR_STOP on
BEGIN;

SELECT 'CREATE ROLE exporter' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'exporter') \gexec
ALTER ROLE exporter LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION
    CONNECTION LIMIT 3 PASSWORD :'password';
GRANT pg_monitor TO exporter;
-- A monitor that hangs must not hold what others wait for.
ALTER ROLE exporter SET statement_timeout = '5s';
ALTER ROLE exporter SET lock_timeout = '1s';
ALTER ROLE exporter SET default_transaction_read_only = on;

COMMIT;
