-- Where partners want to hear of their orders. The secret signs what is sent: it cannot be kept as a digest.
SET LOCAL lock_timeout = '3s';

CREATE TABLE webhook_endpoints (
    endpoint_id     text NOT NULL,
    partner         text NOT NULL,
    url             text NOT NULL,
    secret          text NOT NULL,
    events          text[] NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT now(),
    failing_since   timestamptz,
    last_error      text,
    disabled_at     timestamptz,
    disabled_reason text,
    PRIMARY KEY (endpoint_id)
);
CREATE INDEX webhook_endpoints_partner_idx ON webhook_endpoints (partner);

GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_endpoints TO mes;
