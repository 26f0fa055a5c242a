-- NaN is above all numbers in PostgreSQL, and infinity has no room in numeric(p, s): the upper bounds refuse both.
SET LOCAL lock_timeout = '3s';

ALTER TABLE materials
    ADD CONSTRAINT materials_density_g_per_cm3_bounds_check CHECK (density_g_per_cm3 >= 1 AND density_g_per_cm3 < 30),
    ADD CONSTRAINT materials_eur_per_g_bounds_check CHECK (eur_per_g >= 0 AND eur_per_g < 100000),
    ADD CONSTRAINT materials_loss_bounds_check CHECK (loss >= 1 AND loss < 100);

ALTER TABLE finishes
    ADD CONSTRAINT finishes_eur_per_cm2_bounds_check CHECK (eur_per_cm2 >= 0 AND eur_per_cm2 < 100000);

ALTER TABLE tariffs
    ADD CONSTRAINT tariffs_tree_eur_per_cm3_bounds_check CHECK (tree_eur_per_cm3 >= 0 AND tree_eur_per_cm3 < 100000),
    ADD CONSTRAINT tariffs_machine_seconds_per_1000_polygons_bounds_check CHECK (machine_seconds_per_1000_polygons >= 0 AND machine_seconds_per_1000_polygons < 100000),
    ADD CONSTRAINT tariffs_machine_eur_per_hour_bounds_check CHECK (machine_eur_per_hour >= 0 AND machine_eur_per_hour < 100000),
    ADD CONSTRAINT tariffs_minimum_eur_bounds_check CHECK (minimum_eur >= 0 AND minimum_eur < 100000);
