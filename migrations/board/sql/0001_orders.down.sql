SET LOCAL lock_timeout = '3s';

DROP TABLE orders, order_sources, order_history, inbox, rebuilds;
