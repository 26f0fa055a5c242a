-- A partner's order that is not placed yet: it has an id and a content, and waits for its turn.
SET LOCAL lock_timeout = '3s';

CREATE TABLE intake (
    order_id    bigint NOT NULL,
    message_id  uuid NOT NULL,
    partner     text NOT NULL,
    model_key   text NOT NULL,
    body        jsonb NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    traceparent text,
    PRIMARY KEY (order_id)
);

-- The one that has waited longest is placed first.
CREATE INDEX intake_received_at_idx ON intake (received_at);

ALTER TABLE intake ADD CONSTRAINT shard_owns_check CHECK (shard_owns(order_id)) NOT VALID;

GRANT SELECT, INSERT, UPDATE, DELETE ON intake TO mes;
