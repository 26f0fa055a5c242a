-- What partners ask the price of without an order.
SET LOCAL lock_timeout = '3s';

CREATE TABLE partner_quotes (
    quote_id       bigint NOT NULL PRIMARY KEY,
    partner        text NOT NULL,
    model_key      text NOT NULL,
    model_name     text NOT NULL,
    material       text NOT NULL,
    finish         text NOT NULL,
    quantity       integer NOT NULL,
    asked_at       timestamptz NOT NULL,
    ends_at        timestamptz NOT NULL,
    answered_at    timestamptz,
    unit_price     numeric(12, 2),
    price          numeric(12, 2),
    tariff_version text,
    reason         text
);
CREATE INDEX partner_quotes_waiting_idx ON partner_quotes (partner) WHERE answered_at IS NULL;
CREATE INDEX partner_quotes_ends_at_idx ON partner_quotes (ends_at);

ALTER TABLE partner_quotes ADD CONSTRAINT shard_owns_check CHECK (shard_owns(quote_id)) NOT VALID;

GRANT SELECT, INSERT, UPDATE, DELETE ON partner_quotes TO mes;
