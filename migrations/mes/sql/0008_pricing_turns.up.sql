-- Who has sent the order, and where among all its job stands. What code without turns writes stands in front.
SET LOCAL lock_timeout = '3s';

ALTER TABLE pricing_jobs
    ADD COLUMN sender text NOT NULL DEFAULT '',
    ADD COLUMN position double precision NOT NULL DEFAULT 0;

CREATE INDEX pricing_jobs_position_created_at_idx ON pricing_jobs (position, created_at);
CREATE INDEX pricing_jobs_sender_position_idx ON pricing_jobs (sender, position);
CREATE INDEX pricing_jobs_held_idx ON pricing_jobs (position) WHERE leased_by IS NOT NULL;
