SET LOCAL lock_timeout = '3s';

DELETE FROM pricing_jobs WHERE order_id < 0;
DROP TABLE partner_quotes;
