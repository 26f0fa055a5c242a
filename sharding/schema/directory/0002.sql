-- The directory, version 2: what was measured lately, for a look back without a monitoring system beside it.
SET LOCAL lock_timeout = '3s';

-- Written each minute by the owner, who deletes too: fine steps first. Services get no right on it.
CREATE TABLE IF NOT EXISTS public.metric_samples (
    metric       text NOT NULL,
    at           timestamptz NOT NULL,
    labels       jsonb NOT NULL,
    value        double precision NOT NULL,
    step_seconds integer NOT NULL,
    PRIMARY KEY (metric, at, labels)
);
CREATE INDEX IF NOT EXISTS metric_samples_step_seconds_at_idx ON public.metric_samples (step_seconds, at);
