SET LOCAL lock_timeout = '3s';

DROP TABLE identities_version, identity_keys, identities;
