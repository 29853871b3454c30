CREATE ROLE reader LOGIN;
GRANT pg_read_all_data, pg_monitor TO reader;
