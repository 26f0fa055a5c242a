SET LOCAL lock_timeout = '3s';

ALTER TABLE orders
    DROP COLUMN tariff_version,
    DROP COLUMN price_valid_until;
