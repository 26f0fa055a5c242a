-- NULL of what has no price, and of prices from before quotes had an end.
SET LOCAL lock_timeout = '3s';

ALTER TABLE orders
    ADD COLUMN price_valid_until timestamptz,
    ADD COLUMN tariff_version text,
    ADD COLUMN requote_requested_at timestamptz;
