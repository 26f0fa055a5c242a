SET LOCAL lock_timeout = '3s';

-- Which version of the readers has measured it; what is there is the first one's.
ALTER TABLE model_measurements ADD COLUMN reader integer NOT NULL DEFAULT 1;

-- A model that is being measured. Others with an order for it wait, until expires_at at the longest.
CREATE TABLE measurement_claims (
    digest_key bigint NOT NULL,
    digest     text NOT NULL,
    holder     uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (digest_key, digest)
);

-- The points of measured pieces, in base64. shape_key is name's int8: all that may be the same piece are together.
CREATE TABLE model_shapes (
    shape_key         bigint NOT NULL,
    digest            text NOT NULL,
    name              text NOT NULL,
    points            text NOT NULL,
    faces_digest      text NOT NULL,
    smallest_body_mm3 double precision NOT NULL,
    volume_mm3        double precision NOT NULL,
    area_mm2          double precision NOT NULL,
    extents_mm        jsonb NOT NULL,
    polygons          integer NOT NULL,
    measured_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shape_key, digest)
);

CREATE INDEX model_shapes_measured_at_idx ON model_shapes (measured_at);

ALTER TABLE measurement_claims ADD CONSTRAINT shard_owns_check CHECK (shard_owns(digest_key)) NOT VALID;
ALTER TABLE model_shapes ADD CONSTRAINT shard_owns_check CHECK (shard_owns(shape_key)) NOT VALID;

GRANT SELECT, INSERT, UPDATE, DELETE ON measurement_claims, model_shapes TO mes;
