-- Who may call (docs/how-to/identities.md).
SET LOCAL lock_timeout = '3s';

CREATE TABLE identities (
    identity_id   bigint GENERATED ALWAYS AS IDENTITY,
    name          text NOT NULL,
    role          text NOT NULL,
    sandbox       boolean NOT NULL DEFAULT false,
    password_hash text,
    limits        jsonb,
    created_by    text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    valid_after   timestamptz NOT NULL DEFAULT now(),
    revoked_at    timestamptz,
    PRIMARY KEY (identity_id),
    CONSTRAINT identities_name_key UNIQUE (name)
);

-- Of a key only what it is known by: its id, and the SHA-256 of its 256 random bits.
CREATE TABLE identity_keys (
    key_id       text NOT NULL,
    identity_id  bigint NOT NULL,
    digest       bytea NOT NULL,
    scopes       text[] NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    PRIMARY KEY (key_id),
    CONSTRAINT identity_keys_identity_id_fkey FOREIGN KEY (identity_id) REFERENCES identities (identity_id),
    CONSTRAINT identity_keys_digest_check CHECK (octet_length(digest) = 32)
);
CREATE INDEX identity_keys_identity_id_idx ON identity_keys (identity_id);

-- Raised by each change, in its transaction: the services look at this row alone, and so hear of a change at once.
CREATE TABLE identities_version (
    singleton integer NOT NULL DEFAULT 1,
    version   bigint NOT NULL,
    PRIMARY KEY (singleton),
    CONSTRAINT identities_version_singleton_check CHECK (singleton = 1)
);
INSERT INTO identities_version (version) VALUES (0);

GRANT SELECT ON identities, identity_keys, identities_version TO shop, crm, mes;
GRANT UPDATE (last_used_at) ON identity_keys TO shop, crm, mes;
