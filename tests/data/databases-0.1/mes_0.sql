--
-- PostgreSQL database dump
--


-- Dumped from database version 15.20 (Debian 15.20-0+deb12u1)
-- Dumped by pg_dump version 15.20 (Debian 15.20-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: shard_refuse(bigint, integer, text, integer); Type: FUNCTION; Schema: public; Owner: mes_owner
--

CREATE FUNCTION public.shard_refuse(shard_key bigint, buckets integer, shard text, map_version integer) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    AS $$
DECLARE
    bucket constant bigint := (hashint8(shard_key)::bigint + 2147483648) / (4294967296 / buckets);
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'MS001',
        MESSAGE = 'shard ' || shard || ' does not own bucket ' || bucket || ' of ' || buckets,
        DETAIL = json_build_object('shard', shard, 'key', shard_key::text, 'bucket', bucket,
                                   'buckets', buckets, 'map_version', map_version),
        HINT = 'Read the shard map again and write to the owner: mesctl shards locate ' || shard_key;
END
$$;


ALTER FUNCTION public.shard_refuse(shard_key bigint, buckets integer, shard text, map_version integer) OWNER TO mes_owner;

--
-- Name: shard_owns(bigint); Type: FUNCTION; Schema: public; Owner: mes_owner
--

CREATE FUNCTION public.shard_owns(shard_key bigint) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN (get_bit('1111111111111111111111111111111100000000000000000000000000000000'::"bit", ((hashint8(shard_key) >> 26) + 32)) = 1) THEN true ELSE public.shard_refuse(shard_key, 64, 'mes_0'::text, 1) END;


ALTER FUNCTION public.shard_owns(shard_key bigint) OWNER TO mes_owner;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: alembic_version; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);


ALTER TABLE public.alembic_version OWNER TO mes_owner;

--
-- Name: finishes; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.finishes (
    finish text NOT NULL,
    eur_per_cm2 numeric(10,4) NOT NULL
);


ALTER TABLE public.finishes OWNER TO mes_owner;

--
-- Name: inbox; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.inbox (
    order_id bigint NOT NULL,
    message_id uuid NOT NULL,
    source text NOT NULL,
    type text NOT NULL,
    received_at timestamp with time zone DEFAULT now() NOT NULL
);


ALTER TABLE public.inbox OWNER TO mes_owner;

--
-- Name: materials; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.materials (
    material text NOT NULL,
    density_g_per_cm3 numeric(10,4) NOT NULL,
    eur_per_g numeric(10,4) NOT NULL,
    loss numeric(10,4) NOT NULL
);


ALTER TABLE public.materials OWNER TO mes_owner;

--
-- Name: model_measurements; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.model_measurements (
    digest_key bigint NOT NULL,
    digest text NOT NULL,
    volume_mm3 double precision,
    area_mm2 double precision,
    extents_mm jsonb,
    polygons integer,
    rejection text,
    measured_at timestamp with time zone DEFAULT now() NOT NULL,
    seconds numeric(10,3) NOT NULL
);


ALTER TABLE public.model_measurements OWNER TO mes_owner;

--
-- Name: order_events; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_events (
    order_id bigint NOT NULL,
    event_no integer NOT NULL,
    status text NOT NULL,
    at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL
);


ALTER TABLE public.order_events OWNER TO mes_owner;

--
-- Name: order_events_archive; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_events_archive (
    order_id bigint NOT NULL,
    event_no integer NOT NULL,
    status text NOT NULL,
    at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL
)
PARTITION BY RANGE (order_id);


ALTER TABLE public.order_events_archive OWNER TO mes_owner;

--
-- Name: order_events_archive_2026_10; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_events_archive_2026_10 (
    order_id bigint NOT NULL,
    event_no integer NOT NULL,
    status text NOT NULL,
    at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT order_events_archive_2026_10_month_check CHECK (((order_id >= '363837417062400000'::bigint) AND (order_id < '375071440896000000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.order_events_archive_2026_10 OWNER TO mes_owner;

--
-- Name: order_events_archive_2026_11; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_events_archive_2026_11 (
    order_id bigint NOT NULL,
    event_no integer NOT NULL,
    status text NOT NULL,
    at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT order_events_archive_2026_11_month_check CHECK (((order_id >= '375071440896000000'::bigint) AND (order_id < '385943076864000000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.order_events_archive_2026_11 OWNER TO mes_owner;

--
-- Name: order_events_archive_2026_12; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_events_archive_2026_12 (
    order_id bigint NOT NULL,
    event_no integer NOT NULL,
    status text NOT NULL,
    at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT order_events_archive_2026_12_month_check CHECK (((order_id >= '385943076864000000'::bigint) AND (order_id < '397177100697600000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.order_events_archive_2026_12 OWNER TO mes_owner;

--
-- Name: order_events_archive_2027_01; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_events_archive_2027_01 (
    order_id bigint NOT NULL,
    event_no integer NOT NULL,
    status text NOT NULL,
    at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT order_events_archive_2027_01_month_check CHECK (((order_id >= '397177100697600000'::bigint) AND (order_id < '408411124531200000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.order_events_archive_2027_01 OWNER TO mes_owner;

--
-- Name: order_events_archive_2027_02; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_events_archive_2027_02 (
    order_id bigint NOT NULL,
    event_no integer NOT NULL,
    status text NOT NULL,
    at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT order_events_archive_2027_02_month_check CHECK (((order_id >= '408411124531200000'::bigint) AND (order_id < '418557984768000000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.order_events_archive_2027_02 OWNER TO mes_owner;

--
-- Name: order_events_archive_2027_03; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_events_archive_2027_03 (
    order_id bigint NOT NULL,
    event_no integer NOT NULL,
    status text NOT NULL,
    at timestamp with time zone NOT NULL,
    actor text NOT NULL,
    detail jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT order_events_archive_2027_03_month_check CHECK (((order_id >= '418557984768000000'::bigint) AND (order_id < '429792008601600000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.order_events_archive_2027_03 OWNER TO mes_owner;

--
-- Name: order_items; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_items (
    order_id bigint NOT NULL,
    line_no integer NOT NULL,
    material text NOT NULL,
    finish text NOT NULL,
    quantity integer NOT NULL,
    model_key text NOT NULL,
    model_name text NOT NULL,
    unit_price numeric(12,2)
);


ALTER TABLE public.order_items OWNER TO mes_owner;

--
-- Name: order_items_archive; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_items_archive (
    order_id bigint NOT NULL,
    line_no integer NOT NULL,
    material text NOT NULL,
    finish text NOT NULL,
    quantity integer NOT NULL,
    model_key text NOT NULL,
    model_name text NOT NULL,
    unit_price numeric(12,2)
)
PARTITION BY RANGE (order_id);


ALTER TABLE public.order_items_archive OWNER TO mes_owner;

--
-- Name: order_items_archive_2026_10; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_items_archive_2026_10 (
    order_id bigint NOT NULL,
    line_no integer NOT NULL,
    material text NOT NULL,
    finish text NOT NULL,
    quantity integer NOT NULL,
    model_key text NOT NULL,
    model_name text NOT NULL,
    unit_price numeric(12,2),
    CONSTRAINT order_items_archive_2026_10_month_check CHECK (((order_id >= '363837417062400000'::bigint) AND (order_id < '375071440896000000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.order_items_archive_2026_10 OWNER TO mes_owner;

--
-- Name: order_items_archive_2026_11; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_items_archive_2026_11 (
    order_id bigint NOT NULL,
    line_no integer NOT NULL,
    material text NOT NULL,
    finish text NOT NULL,
    quantity integer NOT NULL,
    model_key text NOT NULL,
    model_name text NOT NULL,
    unit_price numeric(12,2),
    CONSTRAINT order_items_archive_2026_11_month_check CHECK (((order_id >= '375071440896000000'::bigint) AND (order_id < '385943076864000000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.order_items_archive_2026_11 OWNER TO mes_owner;

--
-- Name: order_items_archive_2026_12; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_items_archive_2026_12 (
    order_id bigint NOT NULL,
    line_no integer NOT NULL,
    material text NOT NULL,
    finish text NOT NULL,
    quantity integer NOT NULL,
    model_key text NOT NULL,
    model_name text NOT NULL,
    unit_price numeric(12,2),
    CONSTRAINT order_items_archive_2026_12_month_check CHECK (((order_id >= '385943076864000000'::bigint) AND (order_id < '397177100697600000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.order_items_archive_2026_12 OWNER TO mes_owner;

--
-- Name: order_items_archive_2027_01; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_items_archive_2027_01 (
    order_id bigint NOT NULL,
    line_no integer NOT NULL,
    material text NOT NULL,
    finish text NOT NULL,
    quantity integer NOT NULL,
    model_key text NOT NULL,
    model_name text NOT NULL,
    unit_price numeric(12,2),
    CONSTRAINT order_items_archive_2027_01_month_check CHECK (((order_id >= '397177100697600000'::bigint) AND (order_id < '408411124531200000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.order_items_archive_2027_01 OWNER TO mes_owner;

--
-- Name: order_items_archive_2027_02; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_items_archive_2027_02 (
    order_id bigint NOT NULL,
    line_no integer NOT NULL,
    material text NOT NULL,
    finish text NOT NULL,
    quantity integer NOT NULL,
    model_key text NOT NULL,
    model_name text NOT NULL,
    unit_price numeric(12,2),
    CONSTRAINT order_items_archive_2027_02_month_check CHECK (((order_id >= '408411124531200000'::bigint) AND (order_id < '418557984768000000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.order_items_archive_2027_02 OWNER TO mes_owner;

--
-- Name: order_items_archive_2027_03; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.order_items_archive_2027_03 (
    order_id bigint NOT NULL,
    line_no integer NOT NULL,
    material text NOT NULL,
    finish text NOT NULL,
    quantity integer NOT NULL,
    model_key text NOT NULL,
    model_name text NOT NULL,
    unit_price numeric(12,2),
    CONSTRAINT order_items_archive_2027_03_month_check CHECK (((order_id >= '418557984768000000'::bigint) AND (order_id < '429792008601600000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.order_items_archive_2027_03 OWNER TO mes_owner;

--
-- Name: orders; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.orders (
    order_id bigint NOT NULL,
    status text NOT NULL,
    channel text NOT NULL,
    summary text NOT NULL,
    partner text,
    operator text,
    price numeric(12,2),
    reason text,
    version integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL
)
PARTITION BY LIST (status);


ALTER TABLE public.orders OWNER TO mes_owner;

--
-- Name: orders_archive; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.orders_archive (
    order_id bigint NOT NULL,
    status text NOT NULL,
    channel text NOT NULL,
    summary text NOT NULL,
    partner text,
    operator text,
    price numeric(12,2),
    reason text,
    version integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL
)
PARTITION BY RANGE (order_id);


ALTER TABLE public.orders_archive OWNER TO mes_owner;

--
-- Name: orders_archive_2026_10; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.orders_archive_2026_10 (
    order_id bigint NOT NULL,
    status text NOT NULL,
    channel text NOT NULL,
    summary text NOT NULL,
    partner text,
    operator text,
    price numeric(12,2),
    reason text,
    version integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT orders_archive_2026_10_month_check CHECK (((order_id >= '363837417062400000'::bigint) AND (order_id < '375071440896000000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.orders_archive_2026_10 OWNER TO mes_owner;

--
-- Name: orders_archive_2026_11; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.orders_archive_2026_11 (
    order_id bigint NOT NULL,
    status text NOT NULL,
    channel text NOT NULL,
    summary text NOT NULL,
    partner text,
    operator text,
    price numeric(12,2),
    reason text,
    version integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT orders_archive_2026_11_month_check CHECK (((order_id >= '375071440896000000'::bigint) AND (order_id < '385943076864000000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.orders_archive_2026_11 OWNER TO mes_owner;

--
-- Name: orders_archive_2026_12; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.orders_archive_2026_12 (
    order_id bigint NOT NULL,
    status text NOT NULL,
    channel text NOT NULL,
    summary text NOT NULL,
    partner text,
    operator text,
    price numeric(12,2),
    reason text,
    version integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT orders_archive_2026_12_month_check CHECK (((order_id >= '385943076864000000'::bigint) AND (order_id < '397177100697600000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.orders_archive_2026_12 OWNER TO mes_owner;

--
-- Name: orders_archive_2027_01; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.orders_archive_2027_01 (
    order_id bigint NOT NULL,
    status text NOT NULL,
    channel text NOT NULL,
    summary text NOT NULL,
    partner text,
    operator text,
    price numeric(12,2),
    reason text,
    version integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT orders_archive_2027_01_month_check CHECK (((order_id >= '397177100697600000'::bigint) AND (order_id < '408411124531200000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.orders_archive_2027_01 OWNER TO mes_owner;

--
-- Name: orders_archive_2027_02; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.orders_archive_2027_02 (
    order_id bigint NOT NULL,
    status text NOT NULL,
    channel text NOT NULL,
    summary text NOT NULL,
    partner text,
    operator text,
    price numeric(12,2),
    reason text,
    version integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT orders_archive_2027_02_month_check CHECK (((order_id >= '408411124531200000'::bigint) AND (order_id < '418557984768000000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.orders_archive_2027_02 OWNER TO mes_owner;

--
-- Name: orders_archive_2027_03; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.orders_archive_2027_03 (
    order_id bigint NOT NULL,
    status text NOT NULL,
    channel text NOT NULL,
    summary text NOT NULL,
    partner text,
    operator text,
    price numeric(12,2),
    reason text,
    version integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT orders_archive_2027_03_month_check CHECK (((order_id >= '418557984768000000'::bigint) AND (order_id < '429792008601600000'::bigint))),
    CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id))
);


ALTER TABLE public.orders_archive_2027_03 OWNER TO mes_owner;

--
-- Name: orders_done; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.orders_done (
    order_id bigint NOT NULL,
    status text NOT NULL,
    channel text NOT NULL,
    summary text NOT NULL,
    partner text,
    operator text,
    price numeric(12,2),
    reason text,
    version integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL
);


ALTER TABLE public.orders_done OWNER TO mes_owner;

--
-- Name: orders_hot; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.orders_hot (
    order_id bigint NOT NULL,
    status text NOT NULL,
    channel text NOT NULL,
    summary text NOT NULL,
    partner text,
    operator text,
    price numeric(12,2),
    reason text,
    version integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL
);


ALTER TABLE public.orders_hot OWNER TO mes_owner;

--
-- Name: outbox; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.outbox (
    order_id bigint NOT NULL,
    sequence bigint NOT NULL,
    message_id uuid NOT NULL,
    destination text NOT NULL,
    type text NOT NULL,
    data jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    next_attempt_at timestamp with time zone DEFAULT now() NOT NULL,
    set_aside_at timestamp with time zone,
    set_aside_reason text
);


ALTER TABLE public.outbox OWNER TO mes_owner;

--
-- Name: outbox_sequence_seq; Type: SEQUENCE; Schema: public; Owner: mes_owner
--

ALTER TABLE public.outbox ALTER COLUMN sequence ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.outbox_sequence_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: partner_requests; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.partner_requests (
    request_key bigint NOT NULL,
    partner text NOT NULL,
    idempotency_key text NOT NULL,
    request_digest text NOT NULL,
    order_id bigint NOT NULL,
    message_id uuid NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);


ALTER TABLE public.partner_requests OWNER TO mes_owner;

--
-- Name: pricing_jobs; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.pricing_jobs (
    order_id bigint NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    leased_by text,
    lease_expires_at timestamp with time zone DEFAULT now() NOT NULL
);


ALTER TABLE public.pricing_jobs OWNER TO mes_owner;

--
-- Name: reference_versions; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.reference_versions (
    table_name text NOT NULL,
    version integer NOT NULL,
    checksum text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);


ALTER TABLE public.reference_versions OWNER TO mes_owner;

--
-- Name: shard_identity; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.shard_identity (
    singleton integer DEFAULT 1 NOT NULL,
    shard text NOT NULL,
    map_version integer NOT NULL,
    owned text NOT NULL,
    changed_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT shard_identity_singleton_check CHECK ((singleton = 1))
);


ALTER TABLE public.shard_identity OWNER TO mes_owner;

--
-- Name: tariffs; Type: TABLE; Schema: public; Owner: mes_owner
--

CREATE TABLE public.tariffs (
    tariff text NOT NULL,
    tree_eur_per_cm3 numeric(10,4) NOT NULL,
    machine_seconds_per_1000_polygons numeric(10,4) NOT NULL,
    machine_eur_per_hour numeric(10,4) NOT NULL,
    minimum_eur numeric(12,2) NOT NULL
);


ALTER TABLE public.tariffs OWNER TO mes_owner;

--
-- Name: order_events_archive_2026_10; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_events_archive ATTACH PARTITION public.order_events_archive_2026_10 FOR VALUES FROM ('363837417062400000') TO ('375071440896000000');


--
-- Name: order_events_archive_2026_11; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_events_archive ATTACH PARTITION public.order_events_archive_2026_11 FOR VALUES FROM ('375071440896000000') TO ('385943076864000000');


--
-- Name: order_events_archive_2026_12; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_events_archive ATTACH PARTITION public.order_events_archive_2026_12 FOR VALUES FROM ('385943076864000000') TO ('397177100697600000');


--
-- Name: order_events_archive_2027_01; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_events_archive ATTACH PARTITION public.order_events_archive_2027_01 FOR VALUES FROM ('397177100697600000') TO ('408411124531200000');


--
-- Name: order_events_archive_2027_02; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_events_archive ATTACH PARTITION public.order_events_archive_2027_02 FOR VALUES FROM ('408411124531200000') TO ('418557984768000000');


--
-- Name: order_events_archive_2027_03; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_events_archive ATTACH PARTITION public.order_events_archive_2027_03 FOR VALUES FROM ('418557984768000000') TO ('429792008601600000');


--
-- Name: order_items_archive_2026_10; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_items_archive ATTACH PARTITION public.order_items_archive_2026_10 FOR VALUES FROM ('363837417062400000') TO ('375071440896000000');


--
-- Name: order_items_archive_2026_11; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_items_archive ATTACH PARTITION public.order_items_archive_2026_11 FOR VALUES FROM ('375071440896000000') TO ('385943076864000000');


--
-- Name: order_items_archive_2026_12; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_items_archive ATTACH PARTITION public.order_items_archive_2026_12 FOR VALUES FROM ('385943076864000000') TO ('397177100697600000');


--
-- Name: order_items_archive_2027_01; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_items_archive ATTACH PARTITION public.order_items_archive_2027_01 FOR VALUES FROM ('397177100697600000') TO ('408411124531200000');


--
-- Name: order_items_archive_2027_02; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_items_archive ATTACH PARTITION public.order_items_archive_2027_02 FOR VALUES FROM ('408411124531200000') TO ('418557984768000000');


--
-- Name: order_items_archive_2027_03; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_items_archive ATTACH PARTITION public.order_items_archive_2027_03 FOR VALUES FROM ('418557984768000000') TO ('429792008601600000');


--
-- Name: orders_archive_2026_10; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_archive ATTACH PARTITION public.orders_archive_2026_10 FOR VALUES FROM ('363837417062400000') TO ('375071440896000000');


--
-- Name: orders_archive_2026_11; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_archive ATTACH PARTITION public.orders_archive_2026_11 FOR VALUES FROM ('375071440896000000') TO ('385943076864000000');


--
-- Name: orders_archive_2026_12; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_archive ATTACH PARTITION public.orders_archive_2026_12 FOR VALUES FROM ('385943076864000000') TO ('397177100697600000');


--
-- Name: orders_archive_2027_01; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_archive ATTACH PARTITION public.orders_archive_2027_01 FOR VALUES FROM ('397177100697600000') TO ('408411124531200000');


--
-- Name: orders_archive_2027_02; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_archive ATTACH PARTITION public.orders_archive_2027_02 FOR VALUES FROM ('408411124531200000') TO ('418557984768000000');


--
-- Name: orders_archive_2027_03; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_archive ATTACH PARTITION public.orders_archive_2027_03 FOR VALUES FROM ('418557984768000000') TO ('429792008601600000');


--
-- Name: orders_done; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders ATTACH PARTITION public.orders_done FOR VALUES IN ('CLOSED', 'CANCELLED', 'REJECTED');


--
-- Name: orders_hot; Type: TABLE ATTACH; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders ATTACH PARTITION public.orders_hot FOR VALUES IN ('INITIATED', 'FILE_UPLOADED', 'SUBMITTED', 'PRICE_CALCULATED', 'MANUFACTURING_APPROVED', 'MANUFACTURING_STARTED', 'MANUFACTURING_COMPLETED', 'PACKAGING', 'SHIPPED');


--
-- Data for Name: alembic_version; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.alembic_version (version_num) FROM stdin;
0003
\.


--
-- Data for Name: finishes; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.finishes (finish, eur_per_cm2) FROM stdin;
polished	1.4000
matte	0.9000
brushed	1.1000
hammered	2.2000
\.


--
-- Data for Name: inbox; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.inbox (order_id, message_id, source, type, received_at) FROM stdin;
386271311934001152	c42232dc-551b-455b-833d-c8ff48912452	partner	order.submitted	2026-12-01 21:44:17.519496+00
386271313800466432	662c06a0-b5b8-4a76-8594-66709cdf9f29	partner	order.submitted	2026-12-01 21:44:17.908402+00
386271313846603776	c8ffbcaa-6717-40d2-a968-4b79b4d8e7d1	partner	order.submitted	2026-12-01 21:44:17.918921+00
386271311690727424	5ef1f716-774a-480e-8185-ae743e13799d	shop	order.submitted	2026-12-01 21:44:17.980755+00
386271311728476160	3e792854-4090-46a1-b742-3ebf002f088e	shop	order.submitted	2026-12-01 21:44:18.03492+00
386271311732670464	017a1ea2-f2a9-460b-895e-70516334ac9c	shop	order.submitted	2026-12-01 21:44:18.049182+00
386271313364254720	a91cc571-8e9d-498d-b76b-b4c8cf2159a1	shop	order.submitted	2026-12-01 21:44:18.210123+00
386271313410392064	08067e1e-36c4-4fa9-b23a-07ec28797264	shop	order.submitted	2026-12-01 21:44:18.350996+00
386271313846603776	48166142-ef1f-4909-b4a3-62c7ae6b9499	crm	order.cancel_requested	2026-12-01 21:44:19.363467+00
386271311690727424	e62d07e9-395c-40c2-b31f-8b46a24df50b	crm	order.approved	2026-12-01 21:44:19.509036+00
386271313800466432	b297fee2-c627-4e00-8130-5834f1efd0ec	crm	order.approved	2026-12-01 21:44:19.514779+00
386271311934001152	5ea02a00-8bb3-4773-9e03-07cb6e3541dd	crm	order.approved	2026-12-01 21:44:19.678863+00
386271311690727424	febb08ef-bf43-4b4e-a3d5-b15d9379cfdb	crm	order.cancel_requested	2026-12-01 21:44:19.747675+00
386271311732670464	8c994ff6-dad1-4688-9b89-eed6e5aa5544	crm	order.approved	2026-12-01 21:44:19.844812+00
386271311728476160	d88f10c7-efb8-4264-b857-6440dc82536a	crm	order.approved	2026-12-01 21:44:19.905267+00
386271313410392064	70560dc4-1cac-4bbc-85a7-26df1da5aaab	crm	order.approved	2026-12-01 21:44:20.052637+00
386271313364254720	1acc2878-2be4-455f-bc5b-a89f2d4510e6	crm	order.approved	2026-12-01 21:44:20.06018+00
386271313800466432	46c9e7fc-58ab-44f4-8566-f67167b7b790	crm	order.closed	2026-12-01 21:44:21.492876+00
386271313410392064	9253ea15-69d7-48a2-96ae-4041344292fa	crm	order.closed	2026-12-01 21:44:21.587263+00
386271313364254720	a4e2dfac-8695-4329-ac53-c50705cc9daa	crm	order.closed	2026-12-01 21:44:21.65931+00
386271311934001152	311ab924-95e0-4399-86de-9e0dbe671aea	crm	order.closed	2026-12-01 21:44:21.663394+00
386271311728476160	b7cc1f04-a4e0-44f1-99a5-d5780d26c1fe	crm	order.closed	2026-12-01 21:44:21.731005+00
386271311732670464	f12cb471-e4d6-4fc1-9a34-3a389d30d629	crm	order.closed	2026-12-01 21:44:21.72117+00
386271354988535808	a5249e44-eca4-490d-8070-060d2025f3db	partner	order.submitted	2026-12-01 21:44:27.61159+00
386271356225847296	8ced2cb7-8da0-45c3-9e89-c758900704a2	shop	order.submitted	2026-12-01 21:44:28.010745+00
386271356225847296	f0ec0f43-59f6-438e-a510-8a50efaab01d	crm	order.approved	2026-12-01 21:44:28.539188+00
386271359103148032	57b8f828-b661-4c73-af5d-69bd3e26c1de	partner	order.submitted	2026-12-01 21:44:28.596184+00
386271359103148032	608ffd21-498e-435d-97fc-ff90da36cf51	crm	order.approved	2026-12-01 21:44:28.882988+00
386271365558173696	8e43a033-e281-4cc3-bd51-c2e0c0d136bf	shop	order.submitted	2026-12-01 21:44:30.314813+00
386271365558173696	385a325c-3e4c-4435-bd80-8ed5ce198ca2	crm	order.approved	2026-12-01 21:44:30.704675+00
386271368397725696	c174e747-c27c-4f18-aacc-f24bf001b2bc	partner	order.submitted	2026-12-01 21:44:30.806924+00
386271368397725696	1a9a33c5-a242-45e4-a23c-5ad2ffee6564	crm	order.approved	2026-12-01 21:44:31.220999+00
386271370553589760	5ee31dbc-84d9-4c77-b69d-b0a0ab198e1b	shop	order.submitted	2026-12-01 21:44:31.456592+00
386271370553589760	bede2618-8542-491f-b25a-eb0d7d853b70	crm	order.approved	2026-12-01 21:44:32.011031+00
386271374219419648	402d7117-0e70-45f1-b798-fef0decc9371	partner	order.submitted	2026-12-01 21:44:32.193492+00
386271374219419648	edca8e7d-9fd1-4ea4-aa6a-eb05bd093d0f	crm	order.approved	2026-12-01 21:44:32.515095+00
386271379407773696	43558d68-b26b-493f-99ab-a12618e4c9f6	partner	order.submitted	2026-12-01 21:44:33.439007+00
386271379407773696	eb07814f-5842-4e26-9704-5e1c3fec4a3f	crm	order.approved	2026-12-01 21:44:33.855381+00
386271385342713856	3c1ba1ca-993e-4e70-8bd0-5991fec459f3	partner	order.submitted	2026-12-01 21:44:34.866875+00
386271385342713856	2a3895a0-45d9-4c74-8335-34ef1f0a0bc5	crm	order.cancel_requested	2026-12-01 21:44:35.431304+00
386271401671139328	3d68d10c-5605-424e-a05c-8103e2ce6e6f	partner	order.submitted	2026-12-01 21:44:38.745181+00
386271401671139328	b57b7e37-e711-4f08-8a53-7889286a0e6f	crm	order.approved	2026-12-01 21:44:39.131554+00
386271406347788288	9a11861d-8c6b-4ddf-b307-2b63d6f6e4bf	partner	order.submitted	2026-12-01 21:44:39.854153+00
386271415789166592	b789ef63-c0ac-40d9-9b58-87780938158b	partner	order.submitted	2026-12-01 21:44:42.114061+00
\.


--
-- Data for Name: materials; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.materials (material, density_g_per_cm3, eur_per_g, loss) FROM stdin;
gold_18k	15.5000	78.0000	1.0600
gold_14k	13.1000	61.0000	1.0600
silver_925	10.3600	1.2000	1.1000
platinum_950	21.4000	41.0000	1.0800
brass	8.5000	0.0600	1.1500
\.


--
-- Data for Name: model_measurements; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.model_measurements (digest_key, digest, volume_mm3, area_mm2, extents_mm, polygons, rejection, measured_at, seconds) FROM stdin;
1419486716760825999	feee458fc31ab3265a824ca88bcc5f4a3d7af0c7b7f588197da0430c7143dffd.obj	\N	\N	\N	\N	The model has holes: 50 edges belong to one face only. Close them and upload it again.	2026-12-01 21:44:18.700744+00	0.790
6307821274535662551	60641dffe4a5b91622f24f5d375b4e75e163a48505d42de0b63b1b5d3b8a51f5.3mf	859.6964337711203	1087.8222151699701	[28.6, 28.6, 2.2]	1440	\N	2026-12-01 21:44:18.789033+00	0.861
-2962467789368544126	07bb1e504902d26ec8e1c243d5b35cdf6b1457ce8d5912c9e8793c8c299e6b5c.3mf	469.77045359102027	703.4515918545872	[19.39718442, 19.39718442, 4.5]	960	\N	2026-12-01 21:44:18.909977+00	0.032
-8259584365526852271	24dd715791b7e8799d18fa89d10da2f42b2ecc3a7af79c7aa76df84b07098d93.stl	327.6971030696976	619.1332085010717	[20.825353622436523, 20.825353622436523, 3.5999999046325684]	960	\N	2026-12-01 21:44:18.943726+00	0.024
-8905875329765258318	7d19ee78256f17ff1d5a631c3952b71a47f8616c38584a963c32aaca3c8c249c.stl	775.8184291344344	1052.6207933075043	[24.2, 24.1967896, 1.7]	960	\N	2026-12-01 21:44:28.734759+00	0.032
2176424442463398782	f62196f2feaaa05a2fc46e4b57723b913ba8749626224cca467dc6e13d3cfe28.stl	569.1980769636834	1235.7644902483516	[27.19999933242798, 27.192384719848633, 1.0]	960	\N	2026-12-01 21:44:29.269504+00	0.027
-6782343072485021049	af587e236ef6b5861371ebce3b02ed4b3fd739dc635a5a45a2d98e99a89b7115.stl	258.8963007856294	483.5091566446207	[24.453523635864258, 24.453523635864258, 4.0]	4608	\N	2026-12-01 21:44:30.998486+00	0.067
3474411133844886671	f18b2fddde67253652c9a0dc57e659beaf8f4d82ed22c3c0900d2ce63a50616e.stl	749.9128981880301	973.03825131445	[21.70704460144043, 21.70704460144043, 5.800000190734863]	960	\N	2026-12-01 21:44:31.754496+00	0.026
-7520106122828115609	e0d96a34b02abe42682a34ddf6f2661327d2873a649912db653e18a6cb0c2828.3mf	914.3020827826541	1015.2902850392702	[26.016903, 23.816903, 7.8]	960	\N	2026-12-01 21:44:32.894445+00	0.049
4091708555843475213	c1513039d2b4338b8ef11977df2b4b9ed446277d8d11a4da2c2af85d75d4d87c.obj	204.30968066355106	448.2393027371936	[25.4450722, 25.4450722, 3.9]	4608	\N	2026-12-01 21:44:34.381128+00	0.068
1364179586427551677	9002cd600251dc3a2fe3e368b46f1694f2d3e4a24ad5df5062edaf9d0a00a372.stl	211.92448134660694	427.62085995514883	[23.735212326049805, 23.735212326049805, 2.0]	4608	\N	2026-12-01 21:44:35.063792+00	0.054
1363665046441226870	3396046c93561bb48fcb6d6baf80f9773c6b8c00e549b6f096ef1260ead44fb3.stl	574.9111230682214	902.0532562390786	[22.81690216064453, 22.81690216064453, 5.099999904632568]	960	\N	2026-12-01 21:44:36.045409+00	0.025
-7650067554807927468	4a0ee8cbf71ac8fc5842980c341314066eecfc85bf912643c97504862e00af15.stl	723.3195880700024	851.1916252613064	[22.193803600000003, 22.4776528, 2.2]	1440	\N	2026-12-01 21:44:39.417557+00	0.058
-565766200684258573	048ea3e2bb81dd050dd59581983bb043af894b99b5060ba0d55aac31ec9a53d5.3mf	783.1792347935433	1027.0169760888505	[24.535213, 22.935213, 9.4]	960	\N	2026-12-01 21:44:40.090432+00	0.045
\.


--
-- Data for Name: order_events; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_events (order_id, event_no, status, at, actor, detail) FROM stdin;
386271354988535808	1	SUBMITTED	2026-12-01 21:44:27.610609+00	atelier-nord	{}
386271354988535808	2	PRICE_CALCULATED	2026-12-01 21:44:27.832751+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.00"}], "price": "36.00"}
386271356225847296	1	SUBMITTED	2026-12-01 21:44:27.923656+00	Ada	{}
386271356225847296	2	PRICE_CALCULATED	2026-12-01 21:44:28.309484+00	pricing	{"items": [{"line_no": 1, "unit_price": "768.75"}], "price": "1537.50"}
386271356225847296	3	MANUFACTURING_APPROVED	2026-12-01 21:44:28.401515+00	Sara	{}
386271359103148032	1	SUBMITTED	2026-12-01 21:44:28.59529+00	atelier-nord	{}
386271359103148032	2	PRICE_CALCULATED	2026-12-01 21:44:28.759446+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.00"}], "price": "36.00"}
386271359103148032	3	MANUFACTURING_APPROVED	2026-12-01 21:44:28.832236+00	Sara	{}
386271365558173696	1	SUBMITTED	2026-12-01 21:44:30.21017+00	Ada	{}
386271365558173696	2	PRICE_CALCULATED	2026-12-01 21:44:30.521312+00	pricing	{"items": [{"line_no": 1, "unit_price": "264.66"}], "price": "529.32"}
386271365558173696	3	MANUFACTURING_APPROVED	2026-12-01 21:44:30.666101+00	Sara	{}
386271365558173696	4	MANUFACTURING_STARTED	2026-12-01 21:44:30.742859+00	Rosa	{}
386271365558173696	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:30.765227+00	Rosa	{}
386271368397725696	1	SUBMITTED	2026-12-01 21:44:30.805775+00	atelier-nord	{}
386271368397725696	2	PRICE_CALCULATED	2026-12-01 21:44:31.008726+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.00"}], "price": "36.00"}
386271368397725696	3	MANUFACTURING_APPROVED	2026-12-01 21:44:31.110521+00	Sara	{}
386271368397725696	4	MANUFACTURING_STARTED	2026-12-01 21:44:31.281217+00	Rosa	{}
386271368397725696	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:31.298162+00	Rosa	{}
386271370553589760	1	SUBMITTED	2026-12-01 21:44:31.350331+00	Ada	{}
386271370553589760	2	PRICE_CALCULATED	2026-12-01 21:44:31.768146+00	pricing	{"items": [{"line_no": 1, "unit_price": "976.87"}], "price": "1953.74"}
386271370553589760	3	MANUFACTURING_APPROVED	2026-12-01 21:44:31.928077+00	Sara	{}
386271370553589760	4	MANUFACTURING_STARTED	2026-12-01 21:44:32.098908+00	Rosa	{}
386271370553589760	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:32.123713+00	Rosa	{}
386271370553589760	6	PACKAGING	2026-12-01 21:44:32.14493+00	Rosa	{}
386271374219419648	1	SUBMITTED	2026-12-01 21:44:32.192723+00	atelier-nord	{}
386271374219419648	2	PRICE_CALCULATED	2026-12-01 21:44:32.349442+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.00"}], "price": "36.00"}
386271374219419648	3	MANUFACTURING_APPROVED	2026-12-01 21:44:32.466685+00	Sara	{}
386271374219419648	4	MANUFACTURING_STARTED	2026-12-01 21:44:32.563044+00	Rosa	{}
386271374219419648	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:32.579724+00	Rosa	{}
386271374219419648	6	PACKAGING	2026-12-01 21:44:32.603547+00	Rosa	{}
386271379407773696	1	SUBMITTED	2026-12-01 21:44:33.437679+00	atelier-nord	{}
386271379407773696	2	PRICE_CALCULATED	2026-12-01 21:44:33.637018+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.57"}], "price": "37.71"}
386271379407773696	3	MANUFACTURING_APPROVED	2026-12-01 21:44:33.817458+00	Sara	{}
386271379407773696	4	MANUFACTURING_STARTED	2026-12-01 21:44:33.91464+00	Rosa	{}
386271379407773696	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:33.967566+00	Rosa	{}
386271379407773696	6	PACKAGING	2026-12-01 21:44:34.000515+00	Rosa	{}
386271379407773696	7	SHIPPED	2026-12-01 21:44:34.03914+00	Rosa	{}
386271385342713856	1	SUBMITTED	2026-12-01 21:44:34.866016+00	atelier-nord	{}
386271385342713856	2	PRICE_CALCULATED	2026-12-01 21:44:35.086181+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.00"}], "price": "36.00"}
386271385342713856	3	CANCELLED	2026-12-01 21:44:35.447704+00	Sara	{"reason": "too expensive"}
386271401671139328	1	SUBMITTED	2026-12-01 21:44:38.739124+00	atelier-nord	{}
386271401671139328	2	PRICE_CALCULATED	2026-12-01 21:44:38.881494+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.00"}], "price": "36.00"}
386271401671139328	3	MANUFACTURING_APPROVED	2026-12-01 21:44:39.030819+00	Sara	{}
386271401671139328	4	MANUFACTURING_STARTED	2026-12-01 21:44:39.181481+00	Rosa	{}
386271401671139328	5	REJECTED	2026-12-01 21:44:39.192598+00	Rosa	{"reason": "the wall is too thin"}
386271406347788288	1	SUBMITTED	2026-12-01 21:44:39.853329+00	atelier-nord	{}
386271406347788288	2	PRICE_CALCULATED	2026-12-01 21:44:40.109613+00	pricing	{"items": [{"line_no": 1, "unit_price": "13.95"}], "price": "41.85"}
386271415789166592	1	SUBMITTED	2026-12-01 21:44:42.110682+00	atelier-nord	{}
\.


--
-- Data for Name: order_events_archive_2026_10; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_events_archive_2026_10 (order_id, event_no, status, at, actor, detail) FROM stdin;
373587775959597059	1	CLOSED	2026-10-27 21:44:26.714333+00	Rosa	{}
373587775959597061	1	CLOSED	2026-10-27 21:44:26.714333+00	Rosa	{}
373587775959597063	1	CLOSED	2026-10-27 21:44:26.714333+00	Rosa	{}
\.


--
-- Data for Name: order_events_archive_2026_11; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_events_archive_2026_11 (order_id, event_no, status, at, actor, detail) FROM stdin;
\.


--
-- Data for Name: order_events_archive_2026_12; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_events_archive_2026_12 (order_id, event_no, status, at, actor, detail) FROM stdin;
386271311934001152	1	SUBMITTED	2026-12-01 21:44:17.515167+00	bijoux-sud	{}
386271313800466432	1	SUBMITTED	2026-12-01 21:44:17.907182+00	casa-oro	{}
386271313846603776	1	SUBMITTED	2026-12-01 21:44:17.908549+00	atelier-nord	{}
386271311690727424	1	SUBMITTED	2026-12-01 21:44:17.631973+00	Farid Haddad	{}
386271313410392064	1	SUBMITTED	2026-12-01 21:44:17.867985+00	Ada Berg	{}
386271311934001152	2	PRICE_CALCULATED	2026-12-01 21:44:18.81522+00	pricing	{"items": [{"line_no": 1, "unit_price": "1127.13"}], "price": "3381.39"}
386271313800466432	2	PRICE_CALCULATED	2026-12-01 21:44:18.865591+00	pricing	{"items": [{"line_no": 1, "unit_price": "828.07"}], "price": "2484.21"}
386271313846603776	2	PRICE_CALCULATED	2026-12-01 21:44:18.983124+00	pricing	{"items": [{"line_no": 1, "unit_price": "428.03"}], "price": "1284.09"}
386271311690727424	2	PRICE_CALCULATED	2026-12-01 21:44:19.141446+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.00"}], "price": "24.00"}
386271313846603776	3	CANCELLED	2026-12-01 21:44:19.372902+00	Nadia	{"reason": "too expensive"}
386271313410392064	2	PRICE_CALCULATED	2026-12-01 21:44:19.564952+00	pricing	{"items": [{"line_no": 1, "unit_price": "17.12"}], "price": "17.12"}
386271311690727424	3	MANUFACTURING_APPROVED	2026-12-01 21:44:19.408763+00	Petra	{}
386271313800466432	3	MANUFACTURING_APPROVED	2026-12-01 21:44:19.412637+00	Nadia	{}
386271311934001152	3	MANUFACTURING_APPROVED	2026-12-01 21:44:19.519219+00	Nadia	{}
386271311690727424	4	CANCELLED	2026-12-01 21:44:19.782435+00	Petra	{"reason": "changed their mind"}
386271313800466432	4	MANUFACTURING_STARTED	2026-12-01 21:44:19.970177+00	Tomas	{}
386271313800466432	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:20.034598+00	Tomas	{}
386271313410392064	3	MANUFACTURING_APPROVED	2026-12-01 21:44:19.93058+00	Oskar	{}
386271313800466432	6	PACKAGING	2026-12-01 21:44:20.093384+00	Tomas	{}
386271313800466432	7	SHIPPED	2026-12-01 21:44:20.1216+00	Tomas	{}
386271313410392064	4	MANUFACTURING_STARTED	2026-12-01 21:44:20.266155+00	Rosa	{}
386271311934001152	4	MANUFACTURING_STARTED	2026-12-01 21:44:20.279614+00	Wanda	{}
386271311934001152	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:20.342916+00	Wanda	{}
386271313410392064	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:20.341952+00	Rosa	{}
386271311934001152	6	PACKAGING	2026-12-01 21:44:20.450492+00	Wanda	{}
386271313410392064	6	PACKAGING	2026-12-01 21:44:20.478382+00	Rosa	{}
386271311934001152	7	SHIPPED	2026-12-01 21:44:20.579694+00	Wanda	{}
386271313410392064	7	SHIPPED	2026-12-01 21:44:20.594964+00	Rosa	{}
386271313800466432	8	CLOSED	2026-12-01 21:44:21.241573+00	Nadia	{}
386271313410392064	8	CLOSED	2026-12-01 21:44:21.547619+00	Petra	{}
386271311934001152	8	CLOSED	2026-12-01 21:44:21.603024+00	Petra	{}
386271311728476160	1	SUBMITTED	2026-12-01 21:44:17.656399+00	Farid Haddad	{}
386271311732670464	1	SUBMITTED	2026-12-01 21:44:17.659115+00	Farid Haddad	{}
386271313364254720	1	SUBMITTED	2026-12-01 21:44:17.844719+00	Greta Lind	{}
386271311728476160	2	PRICE_CALCULATED	2026-12-01 21:44:19.328272+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.00"}], "price": "36.00"}
386271311732670464	2	PRICE_CALCULATED	2026-12-01 21:44:19.404872+00	pricing	{"items": [{"line_no": 1, "unit_price": "726.57"}], "price": "726.57"}
386271313364254720	2	PRICE_CALCULATED	2026-12-01 21:44:19.487915+00	pricing	{"items": [{"line_no": 1, "unit_price": "317.36"}], "price": "317.36"}
386271311732670464	3	MANUFACTURING_APPROVED	2026-12-01 21:44:19.772026+00	Nadia	{}
386271311728476160	3	MANUFACTURING_APPROVED	2026-12-01 21:44:19.831112+00	Nadia	{}
386271313364254720	3	MANUFACTURING_APPROVED	2026-12-01 21:44:19.97189+00	Oskar	{}
386271313364254720	4	MANUFACTURING_STARTED	2026-12-01 21:44:20.262693+00	Viktor	{}
386271313364254720	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:20.332208+00	Viktor	{}
386271313364254720	6	PACKAGING	2026-12-01 21:44:20.430589+00	Viktor	{}
386271313364254720	7	SHIPPED	2026-12-01 21:44:20.561689+00	Viktor	{}
386271311728476160	4	MANUFACTURING_STARTED	2026-12-01 21:44:20.671995+00	Sam	{}
386271311732670464	4	MANUFACTURING_STARTED	2026-12-01 21:44:20.674428+00	Uma	{}
386271311728476160	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:20.762587+00	Sam	{}
386271311732670464	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:20.780703+00	Uma	{}
386271311728476160	6	PACKAGING	2026-12-01 21:44:20.845547+00	Sam	{}
386271311732670464	6	PACKAGING	2026-12-01 21:44:20.851077+00	Uma	{}
386271311728476160	7	SHIPPED	2026-12-01 21:44:21.08837+00	Sam	{}
386271311732670464	7	SHIPPED	2026-12-01 21:44:21.095829+00	Uma	{}
386271313364254720	8	CLOSED	2026-12-01 21:44:21.581887+00	Petra	{}
386271311732670464	8	CLOSED	2026-12-01 21:44:21.6377+00	Nadia	{}
386271311728476160	8	CLOSED	2026-12-01 21:44:21.67461+00	Nadia	{}
\.


--
-- Data for Name: order_events_archive_2027_01; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_events_archive_2027_01 (order_id, event_no, status, at, actor, detail) FROM stdin;
\.


--
-- Data for Name: order_events_archive_2027_02; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_events_archive_2027_02 (order_id, event_no, status, at, actor, detail) FROM stdin;
\.


--
-- Data for Name: order_events_archive_2027_03; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_events_archive_2027_03 (order_id, event_no, status, at, actor, detail) FROM stdin;
\.


--
-- Data for Name: order_items; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_items (order_id, line_no, material, finish, quantity, model_key, model_name, unit_price) FROM stdin;
386271354988535808	1	brass	matte	3	models/79f8b0c961a32dca8f19afc4882b4cdac4512ba6b2fe6f145ea6569af0441260.3mf	round-ring-002.3mf	12.00
386271356225847296	1	gold_18k	polished	2	models/f514d9eb33149425a3b6e9b8a2dc8ce70334a6424f944e9e756fbdd446f866bd.3mf	flower-pendant-003.3mf	768.75
386271359103148032	1	brass	matte	3	models/7d19ee78256f17ff1d5a631c3952b71a47f8616c38584a963c32aaca3c8c249c.stl	disc-pendant-004.stl	12.00
386271365558173696	1	gold_18k	polished	2	models/1740691bd2f81e7ca07aca585afea53f1ac93035cc8bfead4a5ad6a58492ccd4.stl	wave-ring-007.stl	264.66
386271368397725696	1	brass	matte	3	models/af587e236ef6b5861371ebce3b02ed4b3fd739dc635a5a45a2d98e99a89b7115.stl	wave-ring-008.stl	12.00
386271370553589760	1	gold_18k	polished	2	models/f18b2fddde67253652c9a0dc57e659beaf8f4d82ed22c3c0900d2ce63a50616e.stl	band-ring-009.stl	976.87
386271374219419648	1	brass	matte	3	models/5cdc465ed29be06e38401b626712de75cffaa44b4f3aa69f8ad2785387ca6fa7.stl	flower-pendant-010.stl	12.00
386271379407773696	1	brass	matte	3	models/9c753afce3b2d9b2632624cbebec95dfcc85d11cf738ebb48bbdc70a026cdae8.3mf	disc-pendant-012.3mf	12.57
386271385342713856	1	brass	matte	3	models/9002cd600251dc3a2fe3e368b46f1694f2d3e4a24ad5df5062edaf9d0a00a372.stl	round-ring-014.stl	12.00
386271401671139328	1	brass	matte	3	models/44da64088cc12f43b2ab06bb264dac88ddbd294ac6de4ee378d614ebcf6caa8c.obj	wave-ring-018.obj	12.00
386271406347788288	1	brass	matte	3	models/048ea3e2bb81dd050dd59581983bb043af894b99b5060ba0d55aac31ec9a53d5.3mf	signet-ring-021.3mf	13.95
386271415789166592	1	brass	matte	3	models/2141a779ec25a52fdd2f5013d5512d61d1a08cd6fb5c387e60ed4412c963c9c2.obj	flower-pendant-025.obj	\N
\.


--
-- Data for Name: order_items_archive_2026_10; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_items_archive_2026_10 (order_id, line_no, material, finish, quantity, model_key, model_name, unit_price) FROM stdin;
373587775959597059	1	brass	matte	1	models/373587775959597059.stl	ring.stl	90.00
373587775959597061	1	brass	matte	1	models/373587775959597061.stl	ring.stl	90.00
373587775959597063	1	brass	matte	1	models/373587775959597063.stl	ring.stl	90.00
\.


--
-- Data for Name: order_items_archive_2026_11; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_items_archive_2026_11 (order_id, line_no, material, finish, quantity, model_key, model_name, unit_price) FROM stdin;
\.


--
-- Data for Name: order_items_archive_2026_12; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_items_archive_2026_12 (order_id, line_no, material, finish, quantity, model_key, model_name, unit_price) FROM stdin;
386271311934001152	1	gold_18k	hammered	3	models/60641dffe4a5b91622f24f5d375b4e75e163a48505d42de0b63b1b5d3b8a51f5.3mf	flower-pendant-003.3mf	1127.13
386271313800466432	1	platinum_950	brushed	3	models/60641dffe4a5b91622f24f5d375b4e75e163a48505d42de0b63b1b5d3b8a51f5.3mf	flower-pendant-003.3mf	828.07
386271313846603776	1	gold_18k	brushed	3	models/24dd715791b7e8799d18fa89d10da2f42b2ecc3a7af79c7aa76df84b07098d93.stl	band-ring-004.stl	428.03
386271311690727424	1	brass	polished	2	models/19102f2434ccfc8b361e476c5980ab045b136de8fd76097f25f5cfde29b91747.stl	disc-pendant-001.stl	12.00
386271313410392064	1	brass	hammered	1	models/07bb1e504902d26ec8e1c243d5b35cdf6b1457ce8d5912c9e8793c8c299e6b5c.3mf	band-ring-002.3mf	17.12
386271311728476160	1	brass	hammered	3	models/217070c017d56c70e787e784838698b7a8188a6480ee6ac4325ffdc54d0ead81.stl	round-ring-005.stl	12.00
386271311732670464	1	gold_14k	brushed	1	models/2533209f50d7a43ffbde25d5ce036f061626fd0233fa8f33b5b67d423968c41f.stl	signet-ring-006.stl	726.57
386271313364254720	1	platinum_950	matte	1	models/24dd715791b7e8799d18fa89d10da2f42b2ecc3a7af79c7aa76df84b07098d93.stl	band-ring-004.stl	317.36
\.


--
-- Data for Name: order_items_archive_2027_01; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_items_archive_2027_01 (order_id, line_no, material, finish, quantity, model_key, model_name, unit_price) FROM stdin;
\.


--
-- Data for Name: order_items_archive_2027_02; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_items_archive_2027_02 (order_id, line_no, material, finish, quantity, model_key, model_name, unit_price) FROM stdin;
\.


--
-- Data for Name: order_items_archive_2027_03; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_items_archive_2027_03 (order_id, line_no, material, finish, quantity, model_key, model_name, unit_price) FROM stdin;
\.


--
-- Data for Name: orders_archive_2026_10; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.orders_archive_2026_10 (order_id, status, channel, summary, partner, operator, price, reason, version, created_at, changed_at) FROM stdin;
373587775959597059	CLOSED	B2C	a ring	\N	\N	90.00	\N	1	2026-12-01 21:44:26.747146+00	2026-12-01 21:44:26.747146+00
373587775959597061	CLOSED	B2C	a ring	\N	\N	90.00	\N	1	2026-12-01 21:44:26.747146+00	2026-12-01 21:44:26.747146+00
373587775959597063	CLOSED	B2C	a ring	\N	\N	90.00	\N	1	2026-12-01 21:44:26.747146+00	2026-12-01 21:44:26.747146+00
\.


--
-- Data for Name: orders_archive_2026_11; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.orders_archive_2026_11 (order_id, status, channel, summary, partner, operator, price, reason, version, created_at, changed_at) FROM stdin;
\.


--
-- Data for Name: orders_archive_2026_12; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.orders_archive_2026_12 (order_id, status, channel, summary, partner, operator, price, reason, version, created_at, changed_at) FROM stdin;
386271313846603776	CANCELLED	B2B	3 x band-ring-004.stl, gold_18k, brushed	atelier-nord	\N	1284.09	too expensive	3	2026-12-01 21:44:17.908549+00	2026-12-01 21:44:19.372902+00
386271311690727424	CANCELLED	B2C	2 x disc-pendant-001.stl, brass, polished	\N	\N	24.00	changed their mind	4	2026-12-01 21:44:17.631973+00	2026-12-01 21:44:19.782435+00
386271313800466432	CLOSED	B2B	3 x flower-pendant-003.3mf, platinum_950, brushed	casa-oro	Tomas	2484.21	\N	8	2026-12-01 21:44:17.907182+00	2026-12-01 21:44:21.241573+00
386271313410392064	CLOSED	B2C	1 x band-ring-002.3mf, brass, hammered	\N	Rosa	17.12	\N	8	2026-12-01 21:44:17.867985+00	2026-12-01 21:44:21.547619+00
386271311934001152	CLOSED	B2B	3 x flower-pendant-003.3mf, gold_18k, hammered	bijoux-sud	Wanda	3381.39	\N	8	2026-12-01 21:44:17.515167+00	2026-12-01 21:44:21.603024+00
386271313364254720	CLOSED	B2C	1 x band-ring-004.stl, platinum_950, matte	\N	Viktor	317.36	\N	8	2026-12-01 21:44:17.844719+00	2026-12-01 21:44:21.581887+00
386271311728476160	CLOSED	B2C	3 x round-ring-005.stl, brass, hammered	\N	Sam	36.00	\N	8	2026-12-01 21:44:17.656399+00	2026-12-01 21:44:21.67461+00
386271311732670464	CLOSED	B2C	1 x signet-ring-006.stl, gold_14k, brushed	\N	Uma	726.57	\N	8	2026-12-01 21:44:17.659115+00	2026-12-01 21:44:21.6377+00
\.


--
-- Data for Name: orders_archive_2027_01; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.orders_archive_2027_01 (order_id, status, channel, summary, partner, operator, price, reason, version, created_at, changed_at) FROM stdin;
\.


--
-- Data for Name: orders_archive_2027_02; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.orders_archive_2027_02 (order_id, status, channel, summary, partner, operator, price, reason, version, created_at, changed_at) FROM stdin;
\.


--
-- Data for Name: orders_archive_2027_03; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.orders_archive_2027_03 (order_id, status, channel, summary, partner, operator, price, reason, version, created_at, changed_at) FROM stdin;
\.


--
-- Data for Name: orders_done; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.orders_done (order_id, status, channel, summary, partner, operator, price, reason, version, created_at, changed_at) FROM stdin;
386271385342713856	CANCELLED	B2B	3 x round-ring-014.stl, brass, matte	atelier-nord	\N	36.00	too expensive	3	2026-12-01 21:44:34.866016+00	2026-12-01 21:44:35.447704+00
386271401671139328	REJECTED	B2B	3 x wave-ring-018.obj, brass, matte	atelier-nord	Rosa	36.00	the wall is too thin	5	2026-12-01 21:44:38.739124+00	2026-12-01 21:44:39.192598+00
\.


--
-- Data for Name: orders_hot; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.orders_hot (order_id, status, channel, summary, partner, operator, price, reason, version, created_at, changed_at) FROM stdin;
386271354988535808	PRICE_CALCULATED	B2B	3 x round-ring-002.3mf, brass, matte	atelier-nord	\N	36.00	\N	2	2026-12-01 21:44:27.610609+00	2026-12-01 21:44:27.832751+00
386271356225847296	MANUFACTURING_APPROVED	B2C	2 x flower-pendant-003.3mf, gold_18k, polished	\N	\N	1537.50	\N	3	2026-12-01 21:44:27.923656+00	2026-12-01 21:44:28.401515+00
386271359103148032	MANUFACTURING_APPROVED	B2B	3 x disc-pendant-004.stl, brass, matte	atelier-nord	\N	36.00	\N	3	2026-12-01 21:44:28.59529+00	2026-12-01 21:44:28.832236+00
386271365558173696	MANUFACTURING_COMPLETED	B2C	2 x wave-ring-007.stl, gold_18k, polished	\N	Rosa	529.32	\N	5	2026-12-01 21:44:30.21017+00	2026-12-01 21:44:30.765227+00
386271368397725696	MANUFACTURING_COMPLETED	B2B	3 x wave-ring-008.stl, brass, matte	atelier-nord	Rosa	36.00	\N	5	2026-12-01 21:44:30.805775+00	2026-12-01 21:44:31.298162+00
386271370553589760	PACKAGING	B2C	2 x band-ring-009.stl, gold_18k, polished	\N	Rosa	1953.74	\N	6	2026-12-01 21:44:31.350331+00	2026-12-01 21:44:32.14493+00
386271374219419648	PACKAGING	B2B	3 x flower-pendant-010.stl, brass, matte	atelier-nord	Rosa	36.00	\N	6	2026-12-01 21:44:32.192723+00	2026-12-01 21:44:32.603547+00
386271379407773696	SHIPPED	B2B	3 x disc-pendant-012.3mf, brass, matte	atelier-nord	Rosa	37.71	\N	7	2026-12-01 21:44:33.437679+00	2026-12-01 21:44:34.03914+00
386271406347788288	PRICE_CALCULATED	B2B	3 x signet-ring-021.3mf, brass, matte (spring)	atelier-nord	\N	41.85	\N	3	2026-12-01 21:44:39.853329+00	2026-12-01 21:44:40.109613+00
386271415789166592	SUBMITTED	B2B	3 x flower-pendant-025.obj, brass, matte	atelier-nord	\N	\N	\N	1	2026-12-01 21:44:42.110682+00	2026-12-01 21:44:42.110682+00
\.


--
-- Data for Name: outbox; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.outbox (order_id, sequence, message_id, destination, type, data, created_at, attempts, next_attempt_at, set_aside_at, set_aside_reason) FROM stdin;
386271415789166592	116	765ca2d1-faf7-4d90-bf95-86b5bd06db8c	crm	order.submitted	{"actor": "atelier-nord", "items": [{"finish": "matte", "line_no": 1, "material": "brass", "quantity": 3, "model_key": "models/2141a779ec25a52fdd2f5013d5512d61d1a08cd6fb5c387e60ed4412c963c9c2.obj", "model_name": "flower-pendant-025.obj"}], "channel": "B2B", "partner": "atelier-nord", "summary": "3 x flower-pendant-025.obj, brass, matte", "customer": null, "submitted_at": "2026-12-01T21:44:42.110682Z"}	2026-12-01 21:44:42.110682+00	1	2026-12-01 21:44:43.913632+00	\N	\N
\.


--
-- Data for Name: partner_requests; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.partner_requests (request_key, partner, idempotency_key, request_digest, order_id, message_id, created_at) FROM stdin;
63974769101288020	bijoux-sud	demo-1-3	cb20598d10ede210140db2527cf5f08d9d13e677b62224bb17176b2fcd2227ee	386271311934001152	c42232dc-551b-455b-833d-c8ff48912452	2026-12-01 21:44:17.4604+00
9028280114807424658	atelier-nord	demo-1-13	f4d3d64830a350812ecd99830ca85d74c2061491ba798b444c96bc06fec82131	386271313838215168	fbfaa7b2-6cef-4dbb-a51f-d82297fbe495	2026-12-01 21:44:17.796103+00
-289076217129876334	atelier-nord	demo-1-11	55a0582ee2a046d471c1abeaca4cec2f3087f623331c08148905ed8c96c138b2	386271313846603776	c8ffbcaa-6717-40d2-a968-4b79b4d8e7d1	2026-12-01 21:44:17.806553+00
8166361993896339963	atelier-nord	key-2	4c89a9f880a7c9ca37350fbc5627fe732abdd4324d4e68fd56ee7164d4006a79	386271354988535808	a5249e44-eca4-490d-8070-060d2025f3db	2026-12-01 21:44:27.606461+00
4586138503755307278	atelier-nord	key-4	b1b8fae8c27a5081de81e113dcfacea5523c63344ccf3644451f6171e565a7ac	386271359103148032	57b8f828-b661-4c73-af5d-69bd3e26c1de	2026-12-01 21:44:28.589648+00
-7310316451444021557	atelier-nord	key-10	127046c707747e08d0d5d38a1f051eb27e4d5adfadaf6b8807d9dd0fcd41ea8e	386271374219419648	402d7117-0e70-45f1-b798-fef0decc9371	2026-12-01 21:44:32.190293+00
2501558280418934927	atelier-nord	key-12	f9c7d5af2e097f4f55b97b95bd29aa3ed2aa04b8da001d3bf9270401e2da28bb	386271379407773696	43558d68-b26b-493f-99ab-a12618e4c9f6	2026-12-01 21:44:33.427132+00
4138679727916237594	atelier-nord	key-16	a1b8cdcce5faf05df30c4ac4f79556c11977179ae084c3ca384b8e7d08acf561	386271393882316800	f474d70e-2695-46f2-88aa-ad81b6d2b71e	2026-12-01 21:44:36.878397+00
-5323193927391746019	atelier-nord	key-21	06b2faa7b5f5dd1c5121787f2114b009629d8deaf833e72e6ca37bc72477e9fe	386271406347788288	9a11861d-8c6b-4ddf-b307-2b63d6f6e4bf	2026-12-01 21:44:39.850571+00
2735213669364579213	atelier-nord	key-23	b32bc033bd55d8d30cb22230327986f45f16bf3bf5060a3423c59f7719854130	386271409787117568	41fbfd1a-d4bf-453e-bd05-2a059eeb6bb8	2026-12-01 21:44:40.671495+00
\.


--
-- Data for Name: pricing_jobs; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.pricing_jobs (order_id, attempts, leased_by, lease_expires_at) FROM stdin;
386271415789166592	0	\N	2026-12-01 21:44:42.114061+00
\.


--
-- Data for Name: reference_versions; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.reference_versions (table_name, version, checksum, applied_at) FROM stdin;
materials	1	0861d79f72ee61df75d4693b309c540b46c41652f1fa6869a4756da1c109eb91	2026-12-01 21:44:10.159374+00
finishes	1	4790888eb0548ea6dd1569e54bd7ef53988f1ae8ffb8f5a84a189206097d1e28	2026-12-01 21:44:10.169877+00
tariffs	1	27db45ccf540bd4458564631717da98a04619e189e26dd1623441af9eea58ee9	2026-12-01 21:44:10.179051+00
\.


--
-- Data for Name: shard_identity; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.shard_identity (singleton, shard, map_version, owned, changed_at) FROM stdin;
1	mes_0	1	1111111111111111111111111111111100000000000000000000000000000000	2026-12-01 21:44:10.016692+00
\.


--
-- Data for Name: tariffs; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.tariffs (tariff, tree_eur_per_cm3, machine_seconds_per_1000_polygons, machine_eur_per_hour, minimum_eur) FROM stdin;
standard	0.8000	1.5000	36.0000	12.00
\.


--
-- Name: outbox_sequence_seq; Type: SEQUENCE SET; Schema: public; Owner: mes_owner
--

SELECT pg_catalog.setval('public.outbox_sequence_seq', 116, true);


--
-- Name: alembic_version alembic_version_pkc; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);


--
-- Name: finishes finishes_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.finishes
    ADD CONSTRAINT finishes_pkey PRIMARY KEY (finish);


--
-- Name: inbox inbox_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.inbox
    ADD CONSTRAINT inbox_pkey PRIMARY KEY (order_id, message_id);


--
-- Name: materials materials_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.materials
    ADD CONSTRAINT materials_pkey PRIMARY KEY (material);


--
-- Name: model_measurements model_measurements_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.model_measurements
    ADD CONSTRAINT model_measurements_pkey PRIMARY KEY (digest_key, digest);


--
-- Name: order_events_archive order_events_archive_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_events_archive
    ADD CONSTRAINT order_events_archive_pkey PRIMARY KEY (order_id, event_no);


--
-- Name: order_events_archive_2026_10 order_events_archive_2026_10_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_events_archive_2026_10
    ADD CONSTRAINT order_events_archive_2026_10_pkey PRIMARY KEY (order_id, event_no);


--
-- Name: order_events_archive_2026_11 order_events_archive_2026_11_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_events_archive_2026_11
    ADD CONSTRAINT order_events_archive_2026_11_pkey PRIMARY KEY (order_id, event_no);


--
-- Name: order_events_archive_2026_12 order_events_archive_2026_12_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_events_archive_2026_12
    ADD CONSTRAINT order_events_archive_2026_12_pkey PRIMARY KEY (order_id, event_no);


--
-- Name: order_events_archive_2027_01 order_events_archive_2027_01_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_events_archive_2027_01
    ADD CONSTRAINT order_events_archive_2027_01_pkey PRIMARY KEY (order_id, event_no);


--
-- Name: order_events_archive_2027_02 order_events_archive_2027_02_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_events_archive_2027_02
    ADD CONSTRAINT order_events_archive_2027_02_pkey PRIMARY KEY (order_id, event_no);


--
-- Name: order_events_archive_2027_03 order_events_archive_2027_03_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_events_archive_2027_03
    ADD CONSTRAINT order_events_archive_2027_03_pkey PRIMARY KEY (order_id, event_no);


--
-- Name: order_events order_events_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_events
    ADD CONSTRAINT order_events_pkey PRIMARY KEY (order_id, event_no);


--
-- Name: order_items_archive order_items_archive_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_items_archive
    ADD CONSTRAINT order_items_archive_pkey PRIMARY KEY (order_id, line_no);


--
-- Name: order_items_archive_2026_10 order_items_archive_2026_10_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_items_archive_2026_10
    ADD CONSTRAINT order_items_archive_2026_10_pkey PRIMARY KEY (order_id, line_no);


--
-- Name: order_items_archive_2026_11 order_items_archive_2026_11_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_items_archive_2026_11
    ADD CONSTRAINT order_items_archive_2026_11_pkey PRIMARY KEY (order_id, line_no);


--
-- Name: order_items_archive_2026_12 order_items_archive_2026_12_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_items_archive_2026_12
    ADD CONSTRAINT order_items_archive_2026_12_pkey PRIMARY KEY (order_id, line_no);


--
-- Name: order_items_archive_2027_01 order_items_archive_2027_01_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_items_archive_2027_01
    ADD CONSTRAINT order_items_archive_2027_01_pkey PRIMARY KEY (order_id, line_no);


--
-- Name: order_items_archive_2027_02 order_items_archive_2027_02_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_items_archive_2027_02
    ADD CONSTRAINT order_items_archive_2027_02_pkey PRIMARY KEY (order_id, line_no);


--
-- Name: order_items_archive_2027_03 order_items_archive_2027_03_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_items_archive_2027_03
    ADD CONSTRAINT order_items_archive_2027_03_pkey PRIMARY KEY (order_id, line_no);


--
-- Name: order_items order_items_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.order_items
    ADD CONSTRAINT order_items_pkey PRIMARY KEY (order_id, line_no);


--
-- Name: orders_archive orders_archive_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_archive
    ADD CONSTRAINT orders_archive_pkey PRIMARY KEY (order_id);


--
-- Name: orders_archive_2026_10 orders_archive_2026_10_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_archive_2026_10
    ADD CONSTRAINT orders_archive_2026_10_pkey PRIMARY KEY (order_id);


--
-- Name: orders_archive_2026_11 orders_archive_2026_11_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_archive_2026_11
    ADD CONSTRAINT orders_archive_2026_11_pkey PRIMARY KEY (order_id);


--
-- Name: orders_archive_2026_12 orders_archive_2026_12_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_archive_2026_12
    ADD CONSTRAINT orders_archive_2026_12_pkey PRIMARY KEY (order_id);


--
-- Name: orders_archive_2027_01 orders_archive_2027_01_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_archive_2027_01
    ADD CONSTRAINT orders_archive_2027_01_pkey PRIMARY KEY (order_id);


--
-- Name: orders_archive_2027_02 orders_archive_2027_02_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_archive_2027_02
    ADD CONSTRAINT orders_archive_2027_02_pkey PRIMARY KEY (order_id);


--
-- Name: orders_archive_2027_03 orders_archive_2027_03_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_archive_2027_03
    ADD CONSTRAINT orders_archive_2027_03_pkey PRIMARY KEY (order_id);


--
-- Name: orders orders_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_pkey PRIMARY KEY (order_id, status);


--
-- Name: orders_done orders_done_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_done
    ADD CONSTRAINT orders_done_pkey PRIMARY KEY (order_id, status);


--
-- Name: orders_hot orders_hot_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.orders_hot
    ADD CONSTRAINT orders_hot_pkey PRIMARY KEY (order_id, status);


--
-- Name: outbox outbox_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT outbox_pkey PRIMARY KEY (order_id, sequence);


--
-- Name: partner_requests partner_requests_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.partner_requests
    ADD CONSTRAINT partner_requests_pkey PRIMARY KEY (request_key, partner, idempotency_key);


--
-- Name: pricing_jobs pricing_jobs_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.pricing_jobs
    ADD CONSTRAINT pricing_jobs_pkey PRIMARY KEY (order_id);


--
-- Name: reference_versions reference_versions_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.reference_versions
    ADD CONSTRAINT reference_versions_pkey PRIMARY KEY (table_name);


--
-- Name: shard_identity shard_identity_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.shard_identity
    ADD CONSTRAINT shard_identity_pkey PRIMARY KEY (singleton);


--
-- Name: inbox shard_owns_check; Type: CHECK CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE public.inbox
    ADD CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id)) NOT VALID;


--
-- Name: model_measurements shard_owns_check; Type: CHECK CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE public.model_measurements
    ADD CONSTRAINT shard_owns_check CHECK (public.shard_owns(digest_key)) NOT VALID;


--
-- Name: order_events shard_owns_check; Type: CHECK CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE public.order_events
    ADD CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id)) NOT VALID;


--
-- Name: order_events_archive shard_owns_check; Type: CHECK CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE public.order_events_archive
    ADD CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id)) NOT VALID;


--
-- Name: order_items shard_owns_check; Type: CHECK CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE public.order_items
    ADD CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id)) NOT VALID;


--
-- Name: order_items_archive shard_owns_check; Type: CHECK CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE public.order_items_archive
    ADD CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id)) NOT VALID;


--
-- Name: orders shard_owns_check; Type: CHECK CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE public.orders
    ADD CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id)) NOT VALID;


--
-- Name: orders_archive shard_owns_check; Type: CHECK CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE public.orders_archive
    ADD CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id)) NOT VALID;


--
-- Name: outbox shard_owns_check; Type: CHECK CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE public.outbox
    ADD CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id)) NOT VALID;


--
-- Name: partner_requests shard_owns_check; Type: CHECK CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE public.partner_requests
    ADD CONSTRAINT shard_owns_check CHECK (public.shard_owns(request_key)) NOT VALID;


--
-- Name: pricing_jobs shard_owns_check; Type: CHECK CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE public.pricing_jobs
    ADD CONSTRAINT shard_owns_check CHECK (public.shard_owns(order_id)) NOT VALID;


--
-- Name: tariffs tariffs_pkey; Type: CONSTRAINT; Schema: public; Owner: mes_owner
--

ALTER TABLE ONLY public.tariffs
    ADD CONSTRAINT tariffs_pkey PRIMARY KEY (tariff);


--
-- Name: orders_done_changed_at_idx; Type: INDEX; Schema: public; Owner: mes_owner
--

CREATE INDEX orders_done_changed_at_idx ON public.orders_done USING btree (changed_at);


--
-- Name: orders_hot_manufacturing_approved_idx; Type: INDEX; Schema: public; Owner: mes_owner
--

CREATE INDEX orders_hot_manufacturing_approved_idx ON public.orders_hot USING btree (order_id DESC) WHERE (status = 'MANUFACTURING_APPROVED'::text);


--
-- Name: orders_hot_manufacturing_completed_idx; Type: INDEX; Schema: public; Owner: mes_owner
--

CREATE INDEX orders_hot_manufacturing_completed_idx ON public.orders_hot USING btree (order_id DESC) WHERE (status = 'MANUFACTURING_COMPLETED'::text);


--
-- Name: orders_hot_manufacturing_started_idx; Type: INDEX; Schema: public; Owner: mes_owner
--

CREATE INDEX orders_hot_manufacturing_started_idx ON public.orders_hot USING btree (order_id DESC) WHERE (status = 'MANUFACTURING_STARTED'::text);


--
-- Name: orders_hot_packaging_idx; Type: INDEX; Schema: public; Owner: mes_owner
--

CREATE INDEX orders_hot_packaging_idx ON public.orders_hot USING btree (order_id DESC) WHERE (status = 'PACKAGING'::text);


--
-- Name: orders_hot_price_calculated_idx; Type: INDEX; Schema: public; Owner: mes_owner
--

CREATE INDEX orders_hot_price_calculated_idx ON public.orders_hot USING btree (order_id DESC) WHERE (status = 'PRICE_CALCULATED'::text);


--
-- Name: orders_hot_shipped_idx; Type: INDEX; Schema: public; Owner: mes_owner
--

CREATE INDEX orders_hot_shipped_idx ON public.orders_hot USING btree (order_id DESC) WHERE (status = 'SHIPPED'::text);


--
-- Name: orders_hot_submitted_idx; Type: INDEX; Schema: public; Owner: mes_owner
--

CREATE INDEX orders_hot_submitted_idx ON public.orders_hot USING btree (order_id DESC) WHERE (status = 'SUBMITTED'::text);


--
-- Name: outbox_destination_order_id_sequence_idx; Type: INDEX; Schema: public; Owner: mes_owner
--

CREATE INDEX outbox_destination_order_id_sequence_idx ON public.outbox USING btree (destination, order_id, sequence);


--
-- Name: outbox_message_id_idx; Type: INDEX; Schema: public; Owner: mes_owner
--

CREATE INDEX outbox_message_id_idx ON public.outbox USING btree (message_id);


--
-- Name: pricing_jobs_lease_expires_at_idx; Type: INDEX; Schema: public; Owner: mes_owner
--

CREATE INDEX pricing_jobs_lease_expires_at_idx ON public.pricing_jobs USING btree (lease_expires_at);


--
-- Name: order_events_archive_2026_10_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.order_events_archive_pkey ATTACH PARTITION public.order_events_archive_2026_10_pkey;


--
-- Name: order_events_archive_2026_11_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.order_events_archive_pkey ATTACH PARTITION public.order_events_archive_2026_11_pkey;


--
-- Name: order_events_archive_2026_12_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.order_events_archive_pkey ATTACH PARTITION public.order_events_archive_2026_12_pkey;


--
-- Name: order_events_archive_2027_01_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.order_events_archive_pkey ATTACH PARTITION public.order_events_archive_2027_01_pkey;


--
-- Name: order_events_archive_2027_02_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.order_events_archive_pkey ATTACH PARTITION public.order_events_archive_2027_02_pkey;


--
-- Name: order_events_archive_2027_03_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.order_events_archive_pkey ATTACH PARTITION public.order_events_archive_2027_03_pkey;


--
-- Name: order_items_archive_2026_10_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.order_items_archive_pkey ATTACH PARTITION public.order_items_archive_2026_10_pkey;


--
-- Name: order_items_archive_2026_11_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.order_items_archive_pkey ATTACH PARTITION public.order_items_archive_2026_11_pkey;


--
-- Name: order_items_archive_2026_12_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.order_items_archive_pkey ATTACH PARTITION public.order_items_archive_2026_12_pkey;


--
-- Name: order_items_archive_2027_01_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.order_items_archive_pkey ATTACH PARTITION public.order_items_archive_2027_01_pkey;


--
-- Name: order_items_archive_2027_02_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.order_items_archive_pkey ATTACH PARTITION public.order_items_archive_2027_02_pkey;


--
-- Name: order_items_archive_2027_03_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.order_items_archive_pkey ATTACH PARTITION public.order_items_archive_2027_03_pkey;


--
-- Name: orders_archive_2026_10_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.orders_archive_pkey ATTACH PARTITION public.orders_archive_2026_10_pkey;


--
-- Name: orders_archive_2026_11_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.orders_archive_pkey ATTACH PARTITION public.orders_archive_2026_11_pkey;


--
-- Name: orders_archive_2026_12_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.orders_archive_pkey ATTACH PARTITION public.orders_archive_2026_12_pkey;


--
-- Name: orders_archive_2027_01_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.orders_archive_pkey ATTACH PARTITION public.orders_archive_2027_01_pkey;


--
-- Name: orders_archive_2027_02_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.orders_archive_pkey ATTACH PARTITION public.orders_archive_2027_02_pkey;


--
-- Name: orders_archive_2027_03_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.orders_archive_pkey ATTACH PARTITION public.orders_archive_2027_03_pkey;


--
-- Name: orders_done_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.orders_pkey ATTACH PARTITION public.orders_done_pkey;


--
-- Name: orders_hot_pkey; Type: INDEX ATTACH; Schema: public; Owner: mes_owner
--

ALTER INDEX public.orders_pkey ATTACH PARTITION public.orders_hot_pkey;


--
-- Name: TABLE finishes; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.finishes TO mes;


--
-- Name: TABLE inbox; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.inbox TO mes;


--
-- Name: TABLE materials; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.materials TO mes;


--
-- Name: TABLE model_measurements; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.model_measurements TO mes;


--
-- Name: TABLE order_events; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.order_events TO mes;


--
-- Name: TABLE order_events_archive; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.order_events_archive TO mes;


--
-- Name: TABLE order_items; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.order_items TO mes;


--
-- Name: TABLE order_items_archive; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.order_items_archive TO mes;


--
-- Name: TABLE orders; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.orders TO mes;


--
-- Name: TABLE orders_archive; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.orders_archive TO mes;


--
-- Name: TABLE orders_done; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.orders_done TO mes;


--
-- Name: TABLE orders_hot; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.orders_hot TO mes;


--
-- Name: TABLE outbox; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.outbox TO mes;


--
-- Name: TABLE partner_requests; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.partner_requests TO mes;


--
-- Name: TABLE pricing_jobs; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.pricing_jobs TO mes;


--
-- Name: TABLE reference_versions; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.reference_versions TO mes;


--
-- Name: TABLE shard_identity; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT ON TABLE public.shard_identity TO mes;


--
-- Name: TABLE tariffs; Type: ACL; Schema: public; Owner: mes_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.tariffs TO mes;


--
-- PostgreSQL database dump complete
--


