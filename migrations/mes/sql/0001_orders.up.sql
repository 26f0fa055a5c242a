-- One MES shard: live orders by status, their archive by month, pricing, and the messages.
SET LOCAL lock_timeout = '3s';

-- PostgreSQL wants the partition key in every unique key, hence (order_id, status). That one id stands in
-- one partition only is promised by the id generator and the inbox, not by this key.
CREATE TABLE orders (
    order_id   bigint NOT NULL,
    status     text NOT NULL,
    channel    text NOT NULL,
    summary    text NOT NULL,
    partner    text,
    operator   text,
    price      numeric(12, 2),
    reason     text,
    version    integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, status)
) PARTITION BY LIST (status);

CREATE TABLE orders_hot PARTITION OF orders FOR VALUES IN (
    'INITIATED', 'FILE_UPLOADED', 'SUBMITTED', 'PRICE_CALCULATED', 'MANUFACTURING_APPROVED',
    'MANUFACTURING_STARTED', 'MANUFACTURING_COMPLETED', 'PACKAGING', 'SHIPPED'
);

CREATE TABLE orders_done PARTITION OF orders FOR VALUES IN ('CLOSED', 'CANCELLED', 'REJECTED');

-- The operator's page: the newest orders of one status, read straight off a small index. PostgreSQL proves
-- a partial index usable from constants alone, so a query must repeat the status as a literal.
-- INITIATED and FILE_UPLOADED are the Shop's business: no MES page lists them.
CREATE INDEX orders_hot_submitted_idx
    ON orders_hot (order_id DESC) WHERE status = 'SUBMITTED';
CREATE INDEX orders_hot_price_calculated_idx
    ON orders_hot (order_id DESC) WHERE status = 'PRICE_CALCULATED';
CREATE INDEX orders_hot_manufacturing_approved_idx
    ON orders_hot (order_id DESC) WHERE status = 'MANUFACTURING_APPROVED';
CREATE INDEX orders_hot_manufacturing_started_idx
    ON orders_hot (order_id DESC) WHERE status = 'MANUFACTURING_STARTED';
CREATE INDEX orders_hot_manufacturing_completed_idx
    ON orders_hot (order_id DESC) WHERE status = 'MANUFACTURING_COMPLETED';
CREATE INDEX orders_hot_packaging_idx
    ON orders_hot (order_id DESC) WHERE status = 'PACKAGING';
CREATE INDEX orders_hot_shipped_idx
    ON orders_hot (order_id DESC) WHERE status = 'SHIPPED';

-- The archive job takes the orders that ended longest ago.
CREATE INDEX orders_done_changed_at_idx ON orders_done (changed_at);

-- What belongs to a live order is keyed by order_id alone: a change of status does not touch it.
-- No foreign key to orders: it would need a unique order_id there, which a LIST on status cannot give.
CREATE TABLE order_items (
    order_id   bigint NOT NULL,
    line_no    integer NOT NULL,
    material   text NOT NULL,
    finish     text NOT NULL,
    quantity   integer NOT NULL,
    model_key  text NOT NULL,
    model_name text NOT NULL,
    unit_price numeric(12, 2),
    PRIMARY KEY (order_id, line_no)
);

CREATE TABLE order_events (
    order_id bigint NOT NULL,
    event_no integer NOT NULL,
    status   text NOT NULL,
    at       timestamptz NOT NULL,
    actor    text NOT NULL,
    detail   jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (order_id, event_no)
);

-- The archive: parents only. Their months come from policy (`mesctl partitions apply`), not from frozen SQL.
-- A tree of its own, so that closing an order never fails for want of a month.
CREATE TABLE orders_archive (
    order_id   bigint NOT NULL,
    status     text NOT NULL,
    channel    text NOT NULL,
    summary    text NOT NULL,
    partner    text,
    operator   text,
    price      numeric(12, 2),
    reason     text,
    version    integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id)
) PARTITION BY RANGE (order_id);

CREATE TABLE order_items_archive (
    order_id   bigint NOT NULL,
    line_no    integer NOT NULL,
    material   text NOT NULL,
    finish     text NOT NULL,
    quantity   integer NOT NULL,
    model_key  text NOT NULL,
    model_name text NOT NULL,
    unit_price numeric(12, 2),
    PRIMARY KEY (order_id, line_no)
) PARTITION BY RANGE (order_id);

CREATE TABLE order_events_archive (
    order_id bigint NOT NULL,
    event_no integer NOT NULL,
    status   text NOT NULL,
    at       timestamptz NOT NULL,
    actor    text NOT NULL,
    detail   jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (order_id, event_no)
) PARTITION BY RANGE (order_id);

-- Orders that wait for a price. The worker takes the job whose lease ran out first.
CREATE TABLE pricing_jobs (
    order_id         bigint NOT NULL,
    attempts         integer NOT NULL DEFAULT 0,
    leased_by        text,
    lease_expires_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id)
);

CREATE INDEX pricing_jobs_lease_expires_at_idx ON pricing_jobs (lease_expires_at);

-- What was measured of a model, by content. digest_key is digest's int8, by which the row is placed.
CREATE TABLE model_measurements (
    digest_key  bigint NOT NULL,
    digest      text NOT NULL,
    volume_mm3  double precision,
    area_mm2    double precision,
    extents_mm  jsonb,
    polygons    integer,
    rejection   text,
    measured_at timestamptz NOT NULL DEFAULT now(),
    seconds     numeric(10, 3) NOT NULL,
    PRIMARY KEY (digest_key, digest)
);

-- A partner's idempotency keys. request_key is their int8, by which the row is placed.
CREATE TABLE partner_requests (
    request_key     bigint NOT NULL,
    partner         text NOT NULL,
    idempotency_key text NOT NULL,
    request_digest  text NOT NULL,
    order_id        bigint NOT NULL,
    message_id      uuid NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (request_key, partner, idempotency_key)
);

-- A message to one destination, kept until that destination has acknowledged it.
CREATE TABLE outbox (
    order_id         bigint NOT NULL,
    sequence         bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    message_id       uuid NOT NULL,
    destination      text NOT NULL,
    type             text NOT NULL,
    data             jsonb NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    attempts         integer NOT NULL DEFAULT 0,
    next_attempt_at  timestamptz NOT NULL DEFAULT now(),
    set_aside_at     timestamptz,
    set_aside_reason text,
    PRIMARY KEY (order_id, sequence)
);

-- The relay asks for the oldest message of each destination and order; an acknowledgement names a message.
CREATE INDEX outbox_destination_order_id_sequence_idx ON outbox (destination, order_id, sequence);
CREATE INDEX outbox_message_id_idx ON outbox (message_id);

-- What was handled, written in the handler's own transaction.
CREATE TABLE inbox (
    order_id    bigint NOT NULL,
    message_id  uuid NOT NULL,
    source      text NOT NULL,
    type        text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, message_id)
);

-- The service has data rights only. An identity column asks for no right on its sequence.
-- The archive job works on orders_done by name; rights on a parent do not reach a query that names its partition.
GRANT SELECT, INSERT, UPDATE, DELETE ON
    orders, orders_hot, orders_done, order_items, order_events,
    orders_archive, order_items_archive, order_events_archive,
    pricing_jobs, model_measurements, partner_requests, outbox, inbox
TO mes;
