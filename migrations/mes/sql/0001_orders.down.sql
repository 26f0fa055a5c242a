SET LOCAL lock_timeout = '3s';

-- A partition goes with its parent, the archive's months too.
DROP TABLE
    orders, order_items, order_events,
    orders_archive, order_items_archive, order_events_archive,
    pricing_jobs, model_measurements, partner_requests, outbox, inbox;
