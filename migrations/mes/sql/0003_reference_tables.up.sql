-- Tables of which every shard has a full copy. Their content comes from the directory, by version
-- (`mesctl shards reference load`), so there are no rows here.
SET LOCAL lock_timeout = '3s';

CREATE TABLE materials (
    material          text NOT NULL,
    density_g_per_cm3 numeric(10, 4) NOT NULL,
    eur_per_g         numeric(10, 4) NOT NULL,
    loss              numeric(10, 4) NOT NULL,
    PRIMARY KEY (material)
);

CREATE TABLE finishes (
    finish      text NOT NULL,
    eur_per_cm2 numeric(10, 4) NOT NULL,
    PRIMARY KEY (finish)
);

CREATE TABLE tariffs (
    tariff                            text NOT NULL,
    tree_eur_per_cm3                  numeric(10, 4) NOT NULL,
    machine_seconds_per_1000_polygons numeric(10, 4) NOT NULL,
    machine_eur_per_hour              numeric(10, 4) NOT NULL,
    minimum_eur                       numeric(12, 2) NOT NULL,
    PRIMARY KEY (tariff)
);

-- Which version of each of them this shard holds.
CREATE TABLE reference_versions (
    table_name text NOT NULL,
    version    integer NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (table_name)
);

GRANT SELECT, INSERT, UPDATE, DELETE ON materials, finishes, tariffs, reference_versions TO mes;
