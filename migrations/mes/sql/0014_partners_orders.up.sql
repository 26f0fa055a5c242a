-- A partner's own reference of an order; the index of partners' lists of the archive; and what webhooks owe.
SET LOCAL lock_timeout = '3s';

ALTER TABLE orders ADD COLUMN reference text;
ALTER TABLE orders_archive ADD COLUMN reference text;
ALTER TABLE intake ADD COLUMN reference text;

-- Only the archive job writes there. The lists of live orders have their indexes by the next revision.
CREATE INDEX orders_archive_partner_idx ON orders_archive (partner, order_id) WHERE partner IS NOT NULL;
CREATE INDEX orders_archive_partner_reference_idx
    ON orders_archive (partner, reference, order_id) WHERE reference IS NOT NULL;

-- What has happened to a partner's order, in the transaction in which it happened; kept for some days.
CREATE TABLE webhook_events (
    order_id      bigint NOT NULL,
    sequence      bigint GENERATED ALWAYS AS IDENTITY,
    event_id      uuid NOT NULL,
    partner       text NOT NULL,
    type          text NOT NULL,
    data          jsonb NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    fanned_out_at timestamptz,
    PRIMARY KEY (order_id, sequence)
);
CREATE INDEX webhook_events_waiting_idx ON webhook_events (sequence) WHERE fanned_out_at IS NULL;
CREATE INDEX webhook_events_partner_created_at_idx ON webhook_events (partner, created_at);
CREATE INDEX webhook_events_created_at_idx ON webhook_events (created_at);

-- An event that is owed to one endpoint, until that has answered.
CREATE TABLE webhook_deliveries (
    order_id        bigint NOT NULL,
    sequence        bigint NOT NULL,
    endpoint_id     text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    dead_at         timestamptz,
    error           text,
    PRIMARY KEY (order_id, sequence, endpoint_id)
);
CREATE INDEX webhook_deliveries_due_idx ON webhook_deliveries (next_attempt_at) WHERE dead_at IS NULL;
CREATE INDEX webhook_deliveries_endpoint_id_order_id_sequence_idx
    ON webhook_deliveries (endpoint_id, order_id, sequence);

ALTER TABLE webhook_events ADD CONSTRAINT shard_owns_check CHECK (shard_owns(order_id)) NOT VALID;
ALTER TABLE webhook_deliveries ADD CONSTRAINT shard_owns_check CHECK (shard_owns(order_id)) NOT VALID;

GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_events, webhook_deliveries TO mes;
