SET LOCAL lock_timeout = '3s';

DROP TABLE webhook_deliveries, webhook_events;
DROP INDEX orders_archive_partner_reference_idx;
DROP INDEX orders_archive_partner_idx;
ALTER TABLE intake DROP COLUMN reference;
ALTER TABLE orders_archive DROP COLUMN reference;
ALTER TABLE orders DROP COLUMN reference;
