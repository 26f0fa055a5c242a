-- What was decided of each unit of work on several shards, and what every shard's reference tables hold.
SET LOCAL lock_timeout = '3s';

-- The row is the decision: a coordinator's commit and a recovery's abort meet in its key.
CREATE TABLE two_phase_decisions (
    unit_id     text NOT NULL,
    decision    text NOT NULL,
    label       text NOT NULL,
    shards      text NOT NULL,
    decided_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (unit_id)
);

-- A version is never changed: its key lets one of two publishers in. Old versions are history, and are small.
CREATE TABLE reference_contents (
    table_name   text NOT NULL,
    version      integer NOT NULL,
    rows         jsonb NOT NULL,
    checksum     text NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (table_name, version)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON two_phase_decisions TO mes;
GRANT SELECT, INSERT ON reference_contents TO mes;
