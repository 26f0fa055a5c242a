-- A shard, version 1: who it is, and its refusal of rows that belong to another. Each statement leaves alone what
-- stands already.
SET LOCAL lock_timeout = '3s';

-- Who this database is, and what it owns: one row, written by `mesctl shards init` and by moves of buckets.
-- `owned` has a 0 or 1 for each bucket. Without the row the shard has no name yet, and owns everything.
CREATE TABLE IF NOT EXISTS public.shard_identity (
    singleton   integer NOT NULL DEFAULT 1,
    shard       text NOT NULL,
    map_version integer NOT NULL,
    owned       text NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (singleton),
    CONSTRAINT shard_identity_singleton_check CHECK (singleton = 1)
);

-- It is declared immutable, or PostgreSQL would not inline shard_owns, whose body must not be less.
CREATE OR REPLACE FUNCTION public.shard_refuse(shard_key bigint, buckets integer, shard text, map_version integer) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    bucket constant bigint := (hashint8(shard_key)::bigint + 2147483648) / (4294967296 / buckets);
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'MS001',
        MESSAGE = 'shard ' || shard || ' does not own bucket ' || bucket || ' of ' || buckets,
        DETAIL = json_build_object('shard', shard, 'key', shard_key::text, 'bucket', bucket,
                                   'buckets', buckets, 'map_version', map_version),
        HINT = 'Read the shard map again and write to the owner: mesctl shards locate ' || shard_key;
END
$$;

-- Replaced with every change of ownership, so what stands is kept. With a body that is parsed already (no
-- quotes, no search_path) it is inlined.
DO $make$
BEGIN
    IF to_regprocedure('public.shard_owns(bigint)') IS NULL THEN
        CREATE FUNCTION public.shard_owns(shard_key bigint) RETURNS boolean
        LANGUAGE sql IMMUTABLE PARALLEL SAFE
        RETURN true;
    END IF;
END
$make$;

-- Which version of each reference table this shard holds.
CREATE TABLE IF NOT EXISTS public.reference_versions (
    table_name text NOT NULL,
    version    integer NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (table_name)
);
