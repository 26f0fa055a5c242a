SET LOCAL lock_timeout = '3s';

DROP TABLE identity_subjects;
