SET LOCAL lock_timeout = '3s';

DROP TABLE materials, finishes, tariffs, reference_versions;
