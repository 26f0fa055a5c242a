SET LOCAL lock_timeout = '3s';

DROP TABLE migration_ledger;
