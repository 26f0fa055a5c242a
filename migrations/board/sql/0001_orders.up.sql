-- The board: orders as their services say they are, for those who read lists of them.
SET LOCAL lock_timeout = '3s';

-- One row for each order. PostgreSQL wants the partition key in every unique key, hence (order_id, status):
-- a writer holds the order's advisory lock, so that one id stands in one partition only.
CREATE TABLE orders (
    order_id             bigint NOT NULL,
    status               text NOT NULL,
    channel              text NOT NULL,
    summary              text NOT NULL,
    created_at           timestamptz NOT NULL,
    changed_at           timestamptz NOT NULL,
    shop_status          text,
    crm_status           text,
    mes_status           text,
    price                numeric(12, 2),
    price_valid_until    timestamptz,
    tariff_version       text,
    reason               text,
    customer_name        text,
    customer_email       text,
    partner              text,
    reference            text,
    operator             text,
    materials            text[] NOT NULL,
    quantity             integer NOT NULL,
    cancel_requested_at  timestamptz,
    requote_requested_at timestamptz,
    cancel_refused_at    timestamptz,
    shipped_at           timestamptz,
    words                tsvector NOT NULL,
    PRIMARY KEY (order_id, status)
) PARTITION BY LIST (status);

CREATE TABLE orders_hot PARTITION OF orders FOR VALUES IN (
    'INITIATED', 'FILE_UPLOADED', 'SUBMITTED', 'PRICE_CALCULATED', 'MANUFACTURING_APPROVED',
    'MANUFACTURING_STARTED', 'MANUFACTURING_COMPLETED', 'PACKAGING', 'SHIPPED'
);

CREATE TABLE orders_done PARTITION OF orders FOR VALUES IN ('CLOSED', 'CANCELLED', 'REJECTED');

-- A list of one status is read off its own small index, by since when the orders wait. A query must repeat
-- the status as a literal: PostgreSQL proves a partial index usable from constants alone.
CREATE INDEX orders_done_customer_email_idx
    ON orders_done (customer_email, order_id DESC) WHERE customer_email IS NOT NULL;
CREATE INDEX orders_done_partner_idx
    ON orders_done (partner, order_id DESC) WHERE partner IS NOT NULL;
CREATE INDEX orders_done_pay_idx
    ON orders_done (operator, shipped_at) INCLUDE (price) WHERE shipped_at IS NOT NULL;
CREATE INDEX orders_done_words_idx
    ON orders_done USING gin (words);
CREATE INDEX orders_hot_cancel_refused_idx
    ON orders_hot (cancel_refused_at, order_id) WHERE cancel_refused_at IS NOT NULL;
CREATE INDEX orders_hot_customer_email_idx
    ON orders_hot (customer_email, order_id DESC) WHERE customer_email IS NOT NULL;
CREATE INDEX orders_hot_expiring_idx
    ON orders_hot (price_valid_until, order_id) WHERE status = 'PRICE_CALCULATED';
CREATE INDEX orders_hot_file_uploaded_idx
    ON orders_hot (changed_at, order_id) WHERE status = 'FILE_UPLOADED';
CREATE INDEX orders_hot_initiated_idx
    ON orders_hot (changed_at, order_id) WHERE status = 'INITIATED';
CREATE INDEX orders_hot_manufacturing_approved_idx
    ON orders_hot (changed_at, order_id) WHERE status = 'MANUFACTURING_APPROVED';
CREATE INDEX orders_hot_manufacturing_completed_idx
    ON orders_hot (changed_at, order_id) WHERE status = 'MANUFACTURING_COMPLETED';
CREATE INDEX orders_hot_manufacturing_started_idx
    ON orders_hot (changed_at, order_id) WHERE status = 'MANUFACTURING_STARTED';
CREATE INDEX orders_hot_operator_idx
    ON orders_hot (operator, changed_at, order_id) WHERE operator IS NOT NULL;
CREATE INDEX orders_hot_packaging_idx
    ON orders_hot (changed_at, order_id) WHERE status = 'PACKAGING';
CREATE INDEX orders_hot_partner_idx
    ON orders_hot (partner, order_id DESC) WHERE partner IS NOT NULL;
CREATE INDEX orders_hot_pay_idx
    ON orders_hot (operator, shipped_at) INCLUDE (price) WHERE shipped_at IS NOT NULL;
CREATE INDEX orders_hot_price_calculated_idx
    ON orders_hot (changed_at, order_id) WHERE status = 'PRICE_CALCULATED';
CREATE INDEX orders_hot_shipped_idx
    ON orders_hot (changed_at, order_id) WHERE status = 'SHIPPED';
CREATE INDEX orders_hot_submitted_idx
    ON orders_hot (changed_at, order_id) WHERE status = 'SUBMITTED';
CREATE INDEX orders_hot_waiting_idx
    ON orders_hot (changed_at, order_id);
CREATE INDEX orders_hot_words_idx
    ON orders_hot USING gin (words);

-- What the row is made of: the newest snapshot by each service.
CREATE TABLE order_sources (
    order_id bigint NOT NULL,
    source   text NOT NULL,
    version  integer NOT NULL,
    snapshot jsonb NOT NULL,
    PRIMARY KEY (order_id, source)
);

-- The histories of all services; only ever appended to.
CREATE TABLE order_history (
    source   text NOT NULL,
    order_id bigint NOT NULL,
    event_no integer NOT NULL,
    status   text NOT NULL,
    at       timestamptz NOT NULL,
    actor    text NOT NULL,
    detail   jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (order_id, source, event_no)
);

-- What was handled, written in the handler's own transaction.
CREATE TABLE inbox (
    order_id    bigint NOT NULL,
    message_id  uuid NOT NULL,
    source      text NOT NULL,
    type        text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, message_id)
);

-- How far `mesctl board rebuild` is in each table of the services.
CREATE TABLE rebuilds (
    database       text NOT NULL,
    table_name     text NOT NULL,
    after_order_id bigint NOT NULL,
    orders         bigint NOT NULL,
    begun_at       timestamptz NOT NULL,
    changed_at     timestamptz NOT NULL,
    ended_at       timestamptz,
    PRIMARY KEY (database, table_name)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON orders, order_sources, order_history, inbox, rebuilds TO board;
