SET LOCAL lock_timeout = '3s';

DROP TABLE flow_grants, flow_control, flow_overrides;
