-- What the order system sends to its shards where Citus keeps them: every statement that writes or locks, without
-- its parameters. tests/integration/test_citus_statements.py collects it and says what to add or take out;
-- `make check` has the preflight read it.
DELETE FROM outbox WHERE outbox.message_id IN (%s) AND outbox.destination = %s;
DELETE FROM pricing_jobs WHERE pricing_jobs.order_id = %s;
DELETE FROM pricing_jobs WHERE pricing_jobs.order_id = %s AND pricing_jobs.leased_by = %s AND pricing_jobs.attempts = %s RETURNING pricing_jobs.order_id;
INSERT INTO inbox (order_id, message_id, source, type) VALUES (%s) ON CONFLICT DO NOTHING RETURNING inbox.message_id;
INSERT INTO model_measurements (digest_key, digest, volume_mm3, area_mm2, extents_mm, polygons, seconds) VALUES (%s) ON CONFLICT DO NOTHING;
INSERT INTO order_events (order_id, event_no, status, at, actor, detail) SELECT %s AS anon_1, coalesce(max(order_events.event_no), %s) + %s AS anon_2, %s AS anon_3, %s AS anon_4, %s AS anon_5, %s AS anon_6 FROM order_events WHERE order_events.order_id = %s;
INSERT INTO order_items (order_id, line_no, material, finish, quantity, model_key, model_name, unit_price) VALUES (%s);
INSERT INTO orders (partner, operator, order_id, status, channel, summary, price, reason, version, created_at, changed_at) VALUES (%s);
INSERT INTO outbox (order_id, message_id, destination, type, data, created_at) VALUES (%s);
INSERT INTO outbox (order_id, message_id, destination, type, data, created_at) VALUES (%s) RETURNING outbox.sequence;
INSERT INTO partner_requests (request_key, partner, idempotency_key, request_digest, order_id, message_id) VALUES (%s) ON CONFLICT DO NOTHING;
INSERT INTO pricing_jobs (order_id, leased_by) VALUES (%s) RETURNING pricing_jobs.attempts, pricing_jobs.lease_expires_at;
SELECT orders.partner, orders.operator, orders.order_id, orders.status, orders.channel, orders.summary, orders.price, orders.reason, orders.version, orders.created_at, orders.changed_at FROM orders WHERE orders.order_id = %s FOR UPDATE;
UPDATE order_items SET unit_price=%s WHERE order_items.order_id = %s AND order_items.line_no = %s;
UPDATE orders SET operator=%s, status=%s, version=%s, changed_at=%s WHERE orders.order_id = %s AND orders.status = %s AND orders.version = %s;
UPDATE orders SET status=%s, price=%s, version=%s, changed_at=%s WHERE orders.order_id = %s AND orders.status = %s AND orders.version = %s;
UPDATE orders SET status=%s, reason=%s, version=%s, changed_at=%s WHERE orders.order_id = %s AND orders.status = %s AND orders.version = %s;
UPDATE orders SET status=%s, version=%s, changed_at=%s WHERE orders.order_id = %s AND orders.status = %s AND orders.version = %s;
UPDATE outbox SET attempts=%s, next_attempt_at=%s WHERE outbox.order_id = %s AND outbox.sequence = %s;
UPDATE pricing_jobs SET attempts=%s, leased_by=%s, lease_expires_at=(now() + %s) WHERE pricing_jobs.order_id = %s AND pricing_jobs.leased_by = %s AND pricing_jobs.attempts = %s;
UPDATE pricing_jobs SET attempts=(pricing_jobs.attempts + %s), leased_by=%s, lease_expires_at=(now() + %s) WHERE pricing_jobs.order_id = %s AND pricing_jobs.order_id = (SELECT pricing_jobs.order_id FROM pricing_jobs WHERE pricing_jobs.order_id = %s AND pricing_jobs.lease_expires_at <= now() FOR UPDATE SKIP LOCKED) RETURNING pricing_jobs.order_id, pricing_jobs.attempts;
SELECT live.order_id FROM orders_done AS live WHERE live.order_id = %s AND live.changed_at < %s AND NOT EXISTS (SELECT FROM outbox AS owed WHERE owed.order_id = live.order_id) AND NOT EXISTS (SELECT FROM pricing_jobs AS owed WHERE owed.order_id = live.order_id) FOR UPDATE OF live SKIP LOCKED;
WITH gone AS ( DELETE FROM order_events AS live WHERE live.order_id = ANY (CAST(%s AS bigint[])) RETURNING live.order_id, live.event_no, live.status, live.at, live.actor, live.detail ), kept AS ( INSERT INTO order_events_archive (order_id, event_no, status, at, actor, detail) SELECT order_id, event_no, status, at, actor, detail FROM gone RETURNING order_id ) SELECT (SELECT count(*) FROM gone) AS deleted, (SELECT count(*) FROM kept) AS inserted;
WITH gone AS ( DELETE FROM order_items AS live WHERE live.order_id = ANY (CAST(%s AS bigint[])) RETURNING live.order_id, live.line_no, live.material, live.finish, live.quantity, live.model_key, live.model_name, live.unit_price ), kept AS ( INSERT INTO order_items_archive (order_id, line_no, material, finish, quantity, model_key, model_name, unit_price) SELECT order_id, line_no, material, finish, quantity, model_key, model_name, unit_price FROM gone RETURNING order_id ) SELECT (SELECT count(*) FROM gone) AS deleted, (SELECT count(*) FROM kept) AS inserted;
WITH gone AS ( DELETE FROM orders_done AS live WHERE live.order_id = ANY (CAST(%s AS bigint[])) AND live.changed_at < %s AND NOT EXISTS (SELECT FROM outbox AS owed WHERE owed.order_id = live.order_id) AND NOT EXISTS (SELECT FROM pricing_jobs AS owed WHERE owed.order_id = live.order_id) RETURNING live.order_id, live.status, live.channel, live.summary, live.partner, live.operator, live.price, live.reason, live.version, live.created_at, live.changed_at ), kept AS ( INSERT INTO orders_archive (order_id, status, channel, summary, partner, operator, price, reason, version, created_at, changed_at) SELECT order_id, status, channel, summary, partner, operator, price, reason, version, created_at, changed_at FROM gone RETURNING order_id ) SELECT (SELECT count(*) FROM gone) AS deleted, (SELECT count(*) FROM kept) AS inserted, ARRAY(SELECT order_id FROM kept) AS keys_1;
