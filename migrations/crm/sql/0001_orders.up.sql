-- The CRM's database: an order as a seller sees it.
SET LOCAL lock_timeout = '3s';

CREATE TABLE orders (
    order_id            bigint NOT NULL,
    status              text NOT NULL,
    channel             text NOT NULL,
    summary             text NOT NULL,
    customer_name       text,
    customer_email      text,
    partner             text,
    price               numeric(12, 2),
    reason              text,
    cancel_requested_at timestamptz,
    version             integer NOT NULL,
    created_at          timestamptz NOT NULL DEFAULT now(),
    changed_at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id)
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
GRANT SELECT, INSERT, UPDATE, DELETE ON orders, order_events, outbox, inbox TO crm;
