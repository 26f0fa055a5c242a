-- What customers are written, and which order has taken the place of one that was rejected.
SET LOCAL lock_timeout = '3s';

ALTER TABLE orders ADD COLUMN replaced_by bigint;

CREATE TABLE notices (
    order_id bigint NOT NULL,
    source text NOT NULL,
    event_no integer NOT NULL,
    kind text NOT NULL,
    at timestamptz NOT NULL,
    attempts integer NOT NULL,
    next_at timestamptz NOT NULL,
    CONSTRAINT notices_pkey PRIMARY KEY (order_id, source, event_no)
);
CREATE INDEX notices_next_idx ON notices (next_at);

GRANT SELECT, INSERT, UPDATE, DELETE ON notices TO board;
