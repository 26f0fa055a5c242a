-- The directory, version 1: what all shards share. Each statement leaves alone what stands already.
SET LOCAL lock_timeout = '3s';

-- Which shard has which bucket: the highest version of a tree is in force.
CREATE TABLE IF NOT EXISTS public.shard_map_versions (
    version    integer NOT NULL,
    owners     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    tree       text NOT NULL,
    PRIMARY KEY (tree, version)
);

-- Who may make ids with which node number.
CREATE TABLE IF NOT EXISTS public.node_leases (
    node       integer NOT NULL,
    holder     text NOT NULL,
    ceiling_ms bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    id_space   text NOT NULL DEFAULT 'default',
    PRIMARY KEY (id_space, node)
);

-- What was migrated where, and how it ended. Services have no business here: they get no right on it.
CREATE TABLE IF NOT EXISTS public.migration_ledger (
    entry_id         bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    database         text NOT NULL,
    tree             text NOT NULL,
    revision         text NOT NULL,
    direction        text NOT NULL,
    state            text NOT NULL,
    started_at       timestamptz NOT NULL DEFAULT now(),
    duration_seconds double precision,
    error            text,
    PRIMARY KEY (entry_id)
);
CREATE INDEX IF NOT EXISTS migration_ledger_database_entry_id_idx
    ON public.migration_ledger (database, entry_id);

-- The row is the decision: a coordinator's commit and a recovery's abort meet in its key.
CREATE TABLE IF NOT EXISTS public.two_phase_decisions (
    unit_id     text NOT NULL,
    decision    text NOT NULL,
    label       text NOT NULL,
    shards      text NOT NULL,
    decided_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    tree        text NOT NULL,
    PRIMARY KEY (unit_id)
);

-- A version is never changed: its key lets one of two publishers in. Old versions are history, and are small.
CREATE TABLE IF NOT EXISTS public.reference_contents (
    table_name   text NOT NULL,
    version      integer NOT NULL,
    rows         jsonb NOT NULL,
    checksum     text NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    tree         text NOT NULL,
    PRIMARY KEY (tree, table_name, version)
);
