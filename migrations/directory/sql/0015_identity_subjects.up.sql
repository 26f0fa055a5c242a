-- Who a member of staff is to the organisation's OpenID provider (docs/how-to/identities.md).
SET LOCAL lock_timeout = '3s';

CREATE TABLE identity_subjects (
    issuer      text NOT NULL,
    subject     text NOT NULL,
    identity_id bigint NOT NULL,
    linked_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (issuer, subject),
    CONSTRAINT identity_subjects_identity_id_fkey FOREIGN KEY (identity_id) REFERENCES identities (identity_id)
);
CREATE INDEX identity_subjects_identity_id_idx ON identity_subjects (identity_id);

GRANT SELECT ON identity_subjects TO shop, crm, mes;
