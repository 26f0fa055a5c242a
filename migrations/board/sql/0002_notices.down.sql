SET LOCAL lock_timeout = '3s';

DROP TABLE notices;
ALTER TABLE orders DROP COLUMN replaced_by;
