SET LOCAL lock_timeout = '3s';

ALTER TABLE orders
    DROP COLUMN requote_requested_at,
    DROP COLUMN tariff_version,
    DROP COLUMN price_valid_until;
