-- The guard: a shard refuses a row of a bucket that it does not own (docs/sharding.md, docs/adr/014).
SET LOCAL lock_timeout = '3s';

-- Who this database is, and what it owns: one row, written by `mesctl shards init` and by moves of buckets.
-- `owned` has a 0 or 1 for each bucket. Without the row the shard has no name yet, and owns everything.
CREATE TABLE shard_identity (
    singleton   integer NOT NULL DEFAULT 1,
    shard       text NOT NULL,
    map_version integer NOT NULL,
    owned       text NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (singleton),
    CONSTRAINT shard_identity_singleton_check CHECK (singleton = 1)
);

-- It is declared immutable, or PostgreSQL would not inline shard_owns, whose body must not be less.
CREATE FUNCTION shard_refuse(shard_key bigint, buckets integer, shard text, map_version integer) RETURNS boolean
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

-- Replaced with every change of ownership. With a body that is parsed already (no quotes, no search_path)
-- it is inlined, and drift, which compares texts, sees one definition on all shards.
CREATE FUNCTION shard_owns(shard_key bigint) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN true;

-- NOT VALID for good: what was written before the guard came is the affair of `mesctl shards check`, and
-- the planner looks at valid checks whenever it plans a query of a partition, which would cost every read.
ALTER TABLE orders ADD CONSTRAINT shard_owns_check CHECK (shard_owns(order_id)) NOT VALID;
ALTER TABLE order_items ADD CONSTRAINT shard_owns_check CHECK (shard_owns(order_id)) NOT VALID;
ALTER TABLE order_events ADD CONSTRAINT shard_owns_check CHECK (shard_owns(order_id)) NOT VALID;
ALTER TABLE orders_archive ADD CONSTRAINT shard_owns_check CHECK (shard_owns(order_id)) NOT VALID;
ALTER TABLE order_items_archive ADD CONSTRAINT shard_owns_check CHECK (shard_owns(order_id)) NOT VALID;
ALTER TABLE order_events_archive ADD CONSTRAINT shard_owns_check CHECK (shard_owns(order_id)) NOT VALID;
ALTER TABLE pricing_jobs ADD CONSTRAINT shard_owns_check CHECK (shard_owns(order_id)) NOT VALID;
ALTER TABLE model_measurements ADD CONSTRAINT shard_owns_check CHECK (shard_owns(digest_key)) NOT VALID;
ALTER TABLE partner_requests ADD CONSTRAINT shard_owns_check CHECK (shard_owns(request_key)) NOT VALID;
ALTER TABLE outbox ADD CONSTRAINT shard_owns_check CHECK (shard_owns(order_id)) NOT VALID;
ALTER TABLE inbox ADD CONSTRAINT shard_owns_check CHECK (shard_owns(order_id)) NOT VALID;

GRANT SELECT ON shard_identity TO mes;
