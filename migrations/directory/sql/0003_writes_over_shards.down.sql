SET LOCAL lock_timeout = '3s';

DROP TABLE two_phase_decisions, reference_contents;
