SET LOCAL lock_timeout = '3s';

DROP TABLE model_shapes, measurement_claims;

ALTER TABLE model_measurements DROP COLUMN reader;
