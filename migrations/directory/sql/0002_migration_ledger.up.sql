-- What was migrated where, and how it ended. Services have no business here: they get no right on it.
SET LOCAL lock_timeout = '3s';

CREATE TABLE migration_ledger (
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

-- The latest entry of each database.
CREATE INDEX migration_ledger_database_entry_id_idx ON migration_ledger (database, entry_id);
