SET LOCAL lock_timeout = '3s';

ALTER TABLE materials
    DROP CONSTRAINT materials_loss_bounds_check,
    DROP CONSTRAINT materials_eur_per_g_bounds_check,
    DROP CONSTRAINT materials_density_g_per_cm3_bounds_check;

ALTER TABLE finishes
    DROP CONSTRAINT finishes_eur_per_cm2_bounds_check;

ALTER TABLE tariffs
    DROP CONSTRAINT tariffs_minimum_eur_bounds_check,
    DROP CONSTRAINT tariffs_machine_eur_per_hour_bounds_check,
    DROP CONSTRAINT tariffs_machine_seconds_per_1000_polygons_bounds_check,
    DROP CONSTRAINT tariffs_tree_eur_per_cm3_bounds_check;
