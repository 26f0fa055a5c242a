SET LOCAL lock_timeout = '3s';

DROP TABLE orders, order_events, outbox, inbox;
