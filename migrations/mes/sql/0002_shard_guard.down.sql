SET LOCAL lock_timeout = '3s';

-- Months and detached tables have checks of their own, copied from their parent when they were made. A parent
-- takes those that are only inherited along; so each time the first that is left, parents first.
DO $$
DECLARE
    guarded regclass;
BEGIN
    LOOP
        SELECT conrelid::regclass INTO guarded FROM pg_constraint
        WHERE conname = 'shard_owns_check' AND contype = 'c' AND coninhcount = 0 LIMIT 1;
        EXIT WHEN guarded IS NULL;
        EXECUTE 'ALTER TABLE ' || guarded::text || ' DROP CONSTRAINT shard_owns_check';
    END LOOP;
END
$$;

DROP FUNCTION shard_owns(bigint);
DROP FUNCTION shard_refuse(bigint, integer, text, integer);
DROP TABLE shard_identity;
