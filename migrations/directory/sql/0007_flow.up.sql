-- Control over what is sent to the MES (docs/how-to/flow.md).
SET LOCAL lock_timeout = '3s';

-- What people have ordered, the last order for each sender. Each ends by itself.
CREATE TABLE flow_overrides (
    sender     text NOT NULL,
    per_second double precision NOT NULL,
    until      timestamptz NOT NULL,
    reason     text NOT NULL,
    made_by    text NOT NULL,
    made_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sender),
    CONSTRAINT flow_overrides_per_second_check CHECK (per_second >= 0)
);

-- Which process of the MES grants: the one that has renewed this row, until it has not for a few seconds.
CREATE TABLE flow_control (
    singleton  integer NOT NULL DEFAULT 1,
    leader     text NOT NULL,
    renewed_at timestamptz NOT NULL,
    signals    jsonb NOT NULL,
    PRIMARY KEY (singleton),
    CONSTRAINT flow_control_singleton_check CHECK (singleton = 1)
);

-- What is granted now: for the other processes of the MES, and for people.
CREATE TABLE flow_grants (
    sender     text NOT NULL,
    per_second double precision NOT NULL,
    burst      integer NOT NULL,
    reason     text NOT NULL,
    paused     boolean NOT NULL,
    issued_at  timestamptz NOT NULL,
    PRIMARY KEY (sender)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON flow_overrides, flow_control, flow_grants TO mes;
