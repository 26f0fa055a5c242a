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
    RETURN CASE WHEN (get_bit('0000000000000000000000000000000011111111111111111111111111111111'::"bit", ((hashint8(shard_key) >> 26) + 32)) = 1) THEN true ELSE public.shard_refuse(shard_key, 64, 'mes_1'::text, 1) END;


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
386271311925612544	9a6913c2-e0c5-492c-9f02-ac3e03408ae3	partner	order.submitted	2026-12-01 21:44:17.498165+00
386271313544613888	85c197c1-cde6-427c-9cd8-06ca720048fb	partner	order.submitted	2026-12-01 21:44:17.738551+00
386271311703310336	901a2768-0559-42f6-b03d-00fea2bf14df	shop	order.submitted	2026-12-01 21:44:17.847814+00
386271313838215168	fbfaa7b2-6cef-4dbb-a51f-d82297fbe495	partner	order.submitted	2026-12-01 21:44:17.892975+00
386271311720087552	d02086f8-b3c7-4cf3-a5ba-8e043aaa7b7c	shop	order.submitted	2026-12-01 21:44:18.037038+00
386271311732670465	f312e0b2-d372-4a16-800c-0cc5bdc672b2	shop	order.submitted	2026-12-01 21:44:18.044324+00
386271313653661696	e6d8ab4c-28df-4410-8627-2d9042343a80	shop	order.submitted	2026-12-01 21:44:18.271541+00
386271313494278144	35551d82-c982-44ab-a3b2-f26e5fe1e1df	shop	order.submitted	2026-12-01 21:44:18.44461+00
386271311720087552	0ba8d2c4-6dbb-40f3-81f2-498d682e894b	crm	order.approved	2026-12-01 21:44:19.500657+00
386271313838215168	ff3716a3-57bd-4bd7-a276-8b72df9a7b15	crm	order.approved	2026-12-01 21:44:19.508249+00
386271311703310336	1ddb9652-2e77-42ca-b43a-078b84dd3250	crm	order.approved	2026-12-01 21:44:19.508202+00
386271313544613888	d40e2c60-dc43-46b2-9e98-90dbf8d8be84	crm	order.approved	2026-12-01 21:44:19.666681+00
386271313653661696	50c71c96-ce8d-43d8-9639-e84c4c42ce6a	crm	order.approved	2026-12-01 21:44:19.77754+00
386271311732670465	cbda2452-d61a-4b95-baca-b09fff8cb847	crm	order.approved	2026-12-01 21:44:19.834212+00
386271313494278144	a2b1caac-73ca-4226-b728-2bc2ef393d5d	crm	order.approved	2026-12-01 21:44:19.9718+00
386271313838215168	9238eb84-cbdf-492f-975d-07808ad5b734	crm	order.closed	2026-12-01 21:44:20.682585+00
386271313653661696	79876bd8-a12d-4f5d-81fc-5e517a1d1537	crm	order.closed	2026-12-01 21:44:21.494615+00
386271313544613888	e81c8013-bbcb-4fef-b3f1-cf55a47e56a9	crm	order.closed	2026-12-01 21:44:21.577955+00
386271313494278144	e00b023c-c5e6-4557-bf7b-d3789fd5b0a6	crm	order.closed	2026-12-01 21:44:21.583585+00
386271311732670465	60c04396-48b2-43d7-9a22-cf139a03eaf5	crm	order.closed	2026-12-01 21:44:21.661849+00
386271311720087552	44aea243-aed7-4022-b285-232e7d9938a4	crm	order.closed	2026-12-01 21:44:21.72714+00
386271311703310336	77016006-679f-4aa7-ba7d-8f08496d9e08	crm	order.closed	2026-12-01 21:44:25.907469+00
386271353092702208	08dcc61b-6795-485b-bed9-a1e2dd096ec6	shop	order.submitted	2026-12-01 21:44:27.204958+00
386271360596312064	dcf69bb6-b75d-4af5-9abd-eed85520e08f	shop	order.submitted	2026-12-01 21:44:29.028899+00
386271360596312064	6b564269-6d5e-4a98-bbf5-399a7a51b480	crm	order.approved	2026-12-01 21:44:29.49923+00
386271363263897600	5314808f-97e3-4c6e-97fc-958929888065	partner	order.submitted	2026-12-01 21:44:29.583754+00
386271363263897600	aed717e6-f721-4367-9940-1310c8b33222	crm	order.approved	2026-12-01 21:44:30.043357+00
386271376018767872	f99c4649-9bfd-4413-9b54-590f8f656d53	shop	order.submitted	2026-12-01 21:44:32.684511+00
386271376018767872	064c987c-94f9-4e32-9114-916c1e250668	crm	order.approved	2026-12-01 21:44:33.16903+00
386271382092120064	840f877e-20a4-4665-8a2e-d6b94f2ce198	shop	order.submitted	2026-12-01 21:44:34.206463+00
386271382092120064	125f5ac7-aad4-4be0-ab66-13d747295d7d	crm	order.cancel_requested	2026-12-01 21:44:34.655264+00
386271388966584320	cc66dc70-b29e-467b-82fe-b35950d47cb9	shop	order.submitted	2026-12-01 21:44:35.810795+00
386271388966584320	5081b9f0-f7b8-4bdd-a946-23fb2b88399d	crm	order.approved	2026-12-01 21:44:36.331192+00
386271388966584320	7bf17f98-6b99-4a86-b9c2-53a7d6573051	crm	order.closed	2026-12-01 21:44:36.86116+00
386271393882316800	f474d70e-2695-46f2-88aa-ad81b6d2b71e	partner	order.submitted	2026-12-01 21:44:36.90127+00
386271393882316800	984e80ab-ac79-459a-85fa-1339776dd55a	crm	order.approved	2026-12-01 21:44:37.444523+00
386271398345048064	cb1be45b-acc0-470e-9f06-d9724017c9fd	shop	order.submitted	2026-12-01 21:44:38.048509+00
386271393882316800	94c07e91-c532-472b-9ced-c2e21daee33b	crm	order.closed	2026-12-01 21:44:38.095508+00
386271398345048064	649da6b1-50f8-4349-9687-8a1813533d03	crm	order.approved	2026-12-01 21:44:38.620452+00
386271403655045120	ce7a073d-48fe-421a-ace8-d85c1df67313	partner	order.submitted	2026-12-01 21:44:39.217205+00
386271405177577472	a04b5011-7908-445d-93f2-ce4e6ee36204	partner	order.submitted	2026-12-01 21:44:39.585971+00
386271409254432768	0612c0c4-6c02-4d59-8cc6-c7f68c539ab6	shop	order.submitted	2026-12-01 21:44:40.673049+00
386271409787117568	41fbfd1a-d4bf-453e-bd05-2a059eeb6bb8	partner	order.submitted	2026-12-01 21:44:40.679391+00
386271409254432768	07a5e265-3c45-4858-8b1d-fd2aed4f2365	crm	order.approved	2026-12-01 21:44:41.130936+00
386271409787117568	07530f14-a584-4807-8859-a71ca0f13e9d	crm	order.approved	2026-12-01 21:44:41.332574+00
386271415071932416	ea6e0b3e-45ef-4531-a2a0-910e49687122	shop	order.submitted	2026-12-01 21:44:42.02392+00
386271416078565376	9398cae9-20ed-4409-9867-55a2b995e803	shop	order.submitted	2026-12-01 21:44:42.292158+00
386271416904851456	15720570-91cc-485b-a455-d9067dddd7ab	partner	order.submitted	2026-12-01 21:44:42.375083+00
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
-4757323781624507742	2533209f50d7a43ffbde25d5ce036f061626fd0233fa8f33b5b67d423968c41f.stl	839.435209661334	1035.6955794950131	[23.561973571777344, 21.86197280883789, 10.0]	960	\N	2026-12-01 21:44:18.831125+00	0.048
5900685408204087538	19102f2434ccfc8b361e476c5980ab045b136de8fd76097f25f5cfde29b91747.stl	211.5635237080639	342.8552074252947	[13.2, 13.198777, 1.6]	960	\N	2026-12-01 21:44:19.092454+00	0.048
-4891022070647049223	217070c017d56c70e787e784838698b7a8188a6480ee6ac4325ffdc54d0ead81.stl	108.58025991586061	312.99009349536885	[24.12676239013672, 24.12676239013672, 1.399999976158142]	4608	\N	2026-12-01 21:44:19.300503+00	0.066
4175753678412628186	c8525710882fd11d01d8a59596529f69e387a66adc4af5460587e9c526cb581a.obj	652.0506310698547	834.4767331823314	[19.67887454, 19.67887454, 5.4]	960	\N	2026-12-01 21:44:27.348054+00	0.023
-5805578476422350842	79f8b0c961a32dca8f19afc4882b4cdac4512ba6b2fe6f145ea6569af0441260.3mf	227.87825188855345	437.9165190309045	[23.2985932, 23.2985932, 2.1]	4608	\N	2026-12-01 21:44:27.826869+00	0.067
2138022868439602440	f514d9eb33149425a3b6e9b8a2dc8ce70334a6424f944e9e756fbdd446f866bd.3mf	592.0161536282621	669.1963890572104	[18.72020664, 19.32468486, 2.3]	1440	\N	2026-12-01 21:44:28.302519+00	0.048
-1123843378277347416	f42fd8e83ef4b922fcf69f01d0e82c6225e0fed8c17ca6b57b33a81bec0c6f33.stl	571.1606185654057	741.7102187843805	[21.6004521, 22.0859524, 2.1]	1440	\N	2026-12-01 21:44:29.753413+00	0.059
-3155263324671255810	1740691bd2f81e7ca07aca585afea53f1ac93035cc8bfead4a5ad6a58492ccd4.stl	201.0931794523388	403.1127697460324	[21.070424, 21.070424, 3.5]	4608	\N	2026-12-01 21:44:30.506018+00	0.089
7349297479592892896	5cdc465ed29be06e38401b626712de75cffaa44b4f3aa69f8ad2785387ca6fa7.stl	438.2204284325284	614.9901269241572	[18.821052260000002, 19.1052704, 2.5]	1440	\N	2026-12-01 21:44:32.322968+00	0.058
2815093318787192398	9c753afce3b2d9b2632624cbebec95dfcc85d11cf738ebb48bbdc70a026cdae8.3mf	1065.0497567273956	1202.9749655893902	[25.6, 25.579865, 2.1]	960	\N	2026-12-01 21:44:33.610372+00	0.069
7444539031160175599	dfe4c63cba51b94f0f1eb4ea54f385080272209eb39ea1e901e16ab9ebff2136.3mf	75.76921613187203	283.52197279486563	[23.0901426, 23.0901426, 3.76050016]	4608	\N	2026-12-01 21:44:37.133207+00	0.104
-6676289125159063842	9e8fdcea4b93eb43600bdac8f8a305c06bb25c03199add43959b84142e62f858.stl	235.1715153692407	441.324237505002	[16.8, 16.8, 1.3]	1440	\N	2026-12-01 21:44:38.318376+00	0.048
8625266678911536798	44da64088cc12f43b2ab06bb264dac88ddbd294ac6de4ee378d614ebcf6caa8c.obj	144.48192357409377	381.68686886636067	[22.4985932, 22.4985932, 3.9]	4608	\N	2026-12-01 21:44:38.863846+00	0.055
-865652639302870921	a0bdc071b5747085d25eeed268e0195c02dfafc8543a070c11e4ca6b9162ab60.3mf	1110.289379985611	1127.2618267866155	[24.4, 24.3884888, 2.4]	960	\N	2026-12-01 21:44:39.745504+00	0.063
3293868023105384488	a4b802916befe5e9e230755021897a850c03bd6cd86c4dd13fc19395fdcdfd69.obj	212.04091991766012	442.3961341525435	[24.0535228, 24.0535228, 3.6]	4608	\N	2026-12-01 21:44:40.78945+00	0.068
5772342681935427991	6473bea0f78f47d8b4d8458fcbc805c15d15a0d759d254ebf00a054cc8b3d1dd.stl	140.44751984501818	336.35470858645283	[19.8338042, 19.8338042, 3.2]	4608	\N	2026-12-01 21:44:40.87169+00	0.090
\.


--
-- Data for Name: order_events; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_events (order_id, event_no, status, at, actor, detail) FROM stdin;
386271353092702208	1	SUBMITTED	2026-12-01 21:44:27.180825+00	Ada	{}
386271353092702208	2	PRICE_CALCULATED	2026-12-01 21:44:27.359404+00	pricing	{"items": [{"line_no": 1, "unit_price": "849.00"}], "price": "1698.00"}
386271360596312064	1	SUBMITTED	2026-12-01 21:44:28.975389+00	Ada	{}
386271360596312064	2	PRICE_CALCULATED	2026-12-01 21:44:29.282767+00	pricing	{"items": [{"line_no": 1, "unit_price": "747.36"}], "price": "1494.72"}
386271360596312064	3	MANUFACTURING_APPROVED	2026-12-01 21:44:29.449313+00	Sara	{}
386271360596312064	4	MANUFACTURING_STARTED	2026-12-01 21:44:29.558719+00	Rosa	{}
386271363263897600	1	SUBMITTED	2026-12-01 21:44:29.583015+00	atelier-nord	{}
386271363263897600	2	PRICE_CALCULATED	2026-12-01 21:44:29.769478+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.00"}], "price": "36.00"}
386271363263897600	3	MANUFACTURING_APPROVED	2026-12-01 21:44:29.959452+00	Sara	{}
386271363263897600	4	MANUFACTURING_STARTED	2026-12-01 21:44:30.106785+00	Rosa	{}
386271376018767872	1	SUBMITTED	2026-12-01 21:44:32.654898+00	Ada	{}
386271376018767872	2	PRICE_CALCULATED	2026-12-01 21:44:32.914116+00	pricing	{"items": [{"line_no": 1, "unit_price": "1189.81"}], "price": "2379.62"}
386271376018767872	3	MANUFACTURING_APPROVED	2026-12-01 21:44:33.027922+00	Sara	{}
386271376018767872	4	MANUFACTURING_STARTED	2026-12-01 21:44:33.208378+00	Rosa	{}
386271376018767872	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:33.329854+00	Rosa	{}
386271376018767872	6	PACKAGING	2026-12-01 21:44:33.360369+00	Rosa	{}
386271376018767872	7	SHIPPED	2026-12-01 21:44:33.389632+00	Rosa	{}
386271382092120064	1	SUBMITTED	2026-12-01 21:44:34.147727+00	Ada	{}
386271382092120064	2	PRICE_CALCULATED	2026-12-01 21:44:34.396408+00	pricing	{"items": [{"line_no": 1, "unit_price": "270.20"}], "price": "540.40"}
386271382092120064	3	CANCELLED	2026-12-01 21:44:34.660479+00	Sara	{"reason": "too expensive"}
386271388966584320	1	SUBMITTED	2026-12-01 21:44:35.754718+00	Ada	{}
386271388966584320	2	PRICE_CALCULATED	2026-12-01 21:44:36.059068+00	pricing	{"items": [{"line_no": 1, "unit_price": "751.54"}], "price": "1503.08"}
386271388966584320	3	MANUFACTURING_APPROVED	2026-12-01 21:44:36.166796+00	Sara	{}
386271388966584320	4	MANUFACTURING_STARTED	2026-12-01 21:44:36.395575+00	Rosa	{}
386271388966584320	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:36.426391+00	Rosa	{}
386271388966584320	6	PACKAGING	2026-12-01 21:44:36.468576+00	Rosa	{}
386271388966584320	7	SHIPPED	2026-12-01 21:44:36.529985+00	Rosa	{}
386271388966584320	8	CLOSED	2026-12-01 21:44:36.801725+00	Sara	{}
386271393882316800	1	SUBMITTED	2026-12-01 21:44:36.897792+00	atelier-nord	{}
386271393882316800	2	PRICE_CALCULATED	2026-12-01 21:44:37.149946+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.00"}], "price": "36.00"}
386271393882316800	3	MANUFACTURING_APPROVED	2026-12-01 21:44:37.289582+00	Sara	{}
386271393882316800	4	MANUFACTURING_STARTED	2026-12-01 21:44:37.501174+00	Rosa	{}
386271393882316800	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:37.523018+00	Rosa	{}
386271393882316800	6	PACKAGING	2026-12-01 21:44:37.546258+00	Rosa	{}
386271393882316800	7	SHIPPED	2026-12-01 21:44:37.570958+00	Rosa	{}
386271398345048064	1	SUBMITTED	2026-12-01 21:44:38.010657+00	Ada	{}
386271393882316800	8	CLOSED	2026-12-01 21:44:37.9158+00	Sara	{}
386271398345048064	2	PRICE_CALCULATED	2026-12-01 21:44:38.330686+00	pricing	{"items": [{"line_no": 1, "unit_price": "307.88"}], "price": "615.76"}
386271398345048064	3	MANUFACTURING_APPROVED	2026-12-01 21:44:38.450332+00	Sara	{}
386271398345048064	4	MANUFACTURING_STARTED	2026-12-01 21:44:38.671194+00	Rosa	{}
386271398345048064	5	REJECTED	2026-12-01 21:44:38.693638+00	Rosa	{"reason": "the wall is too thin"}
386271403655045120	1	SUBMITTED	2026-12-01 21:44:39.213271+00	atelier-nord	{}
386271403655045120	2	PRICE_CALCULATED	2026-12-01 21:44:39.430426+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.00"}], "price": "36.00"}
386271405177577472	1	SUBMITTED	2026-12-01 21:44:39.580774+00	atelier-nord	{}
386271405177577472	2	PRICE_CALCULATED	2026-12-01 21:44:39.761728+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.00"}], "price": "36.00"}
386271409254432768	1	SUBMITTED	2026-12-01 21:44:40.594515+00	Ada	{}
386271409787117568	1	SUBMITTED	2026-12-01 21:44:40.678576+00	atelier-nord	{}
386271409254432768	2	PRICE_CALCULATED	2026-12-01 21:44:40.801506+00	pricing	{"items": [{"line_no": 1, "unit_price": "279.67"}], "price": "559.34"}
386271409787117568	2	PRICE_CALCULATED	2026-12-01 21:44:40.899885+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.00"}], "price": "36.00"}
386271409254432768	3	MANUFACTURING_APPROVED	2026-12-01 21:44:40.965711+00	Sara	{}
386271409254432768	4	MANUFACTURING_STARTED	2026-12-01 21:44:41.20667+00	Rosa	{}
386271409254432768	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:41.230037+00	Rosa	{}
386271409254432768	6	PACKAGING	2026-12-01 21:44:41.245586+00	Rosa	{}
386271409787117568	3	MANUFACTURING_APPROVED	2026-12-01 21:44:41.278711+00	Sara	{}
386271409787117568	4	MANUFACTURING_STARTED	2026-12-01 21:44:41.436084+00	Rosa	{}
386271409787117568	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:41.459573+00	Rosa	{}
386271409787117568	6	PACKAGING	2026-12-01 21:44:41.498541+00	Rosa	{}
386271409254432768	7	SHIPPED	2026-12-01 21:44:41.881758+00	Rosa	{}
386271409787117568	7	SHIPPED	2026-12-01 21:44:41.909841+00	Rosa	{}
386271415071932416	1	SUBMITTED	2026-12-01 21:44:41.99095+00	Ada	{}
386271416078565376	1	SUBMITTED	2026-12-01 21:44:42.240034+00	Ada	{}
386271416904851456	1	SUBMITTED	2026-12-01 21:44:42.374203+00	atelier-nord	{}
\.


--
-- Data for Name: order_events_archive_2026_10; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_events_archive_2026_10 (order_id, event_no, status, at, actor, detail) FROM stdin;
373587775959597056	1	CLOSED	2026-10-27 21:44:26.714333+00	Rosa	{}
373587775959597057	1	CLOSED	2026-10-27 21:44:26.714333+00	Rosa	{}
373587775959597058	1	CLOSED	2026-10-27 21:44:26.714333+00	Rosa	{}
373587775959597060	1	CLOSED	2026-10-27 21:44:26.714333+00	Rosa	{}
373587775959597062	1	CLOSED	2026-10-27 21:44:26.714333+00	Rosa	{}
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
386271311925612544	1	SUBMITTED	2026-12-01 21:44:17.492208+00	casa-oro	{}
386271313544613888	1	SUBMITTED	2026-12-01 21:44:17.73513+00	casa-oro	{}
386271313838215168	1	SUBMITTED	2026-12-01 21:44:17.892096+00	atelier-nord	{}
386271313653661696	1	SUBMITTED	2026-12-01 21:44:17.887555+00	Farid Haddad	{}
386271313494278144	1	SUBMITTED	2026-12-01 21:44:17.884242+00	Dmitri Popov	{}
386271311925612544	2	REJECTED	2026-12-01 21:44:18.727676+00	pricing	{"reason": "The model has holes: 50 edges belong to one face only. Close them and upload it again."}
386271313544613888	2	PRICE_CALCULATED	2026-12-01 21:44:18.844077+00	pricing	{"items": [{"line_no": 1, "unit_price": "30.11"}], "price": "60.22"}
386271313838215168	2	PRICE_CALCULATED	2026-12-01 21:44:19.031072+00	pricing	{"items": [{"line_no": 1, "unit_price": "12.00"}], "price": "24.00"}
386271313653661696	2	PRICE_CALCULATED	2026-12-01 21:44:19.424698+00	pricing	{"items": [{"line_no": 1, "unit_price": "203.80"}], "price": "611.40"}
386271313494278144	2	PRICE_CALCULATED	2026-12-01 21:44:19.495879+00	pricing	{"items": [{"line_no": 1, "unit_price": "724.50"}], "price": "2173.50"}
386271313838215168	3	MANUFACTURING_APPROVED	2026-12-01 21:44:19.365156+00	Nadia	{}
386271313838215168	4	MANUFACTURING_STARTED	2026-12-01 21:44:19.684825+00	Tomas	{}
386271313544613888	3	MANUFACTURING_APPROVED	2026-12-01 21:44:19.462882+00	Nadia	{}
386271313838215168	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:19.722211+00	Tomas	{}
386271313838215168	6	PACKAGING	2026-12-01 21:44:19.789349+00	Tomas	{}
386271313653661696	3	MANUFACTURING_APPROVED	2026-12-01 21:44:19.671539+00	Nadia	{}
386271313838215168	7	SHIPPED	2026-12-01 21:44:19.863924+00	Tomas	{}
386271313494278144	3	MANUFACTURING_APPROVED	2026-12-01 21:44:19.898602+00	Oskar	{}
386271313653661696	4	MANUFACTURING_STARTED	2026-12-01 21:44:20.205626+00	Tomas	{}
386271313544613888	4	MANUFACTURING_STARTED	2026-12-01 21:44:20.208987+00	Sam	{}
386271313494278144	4	MANUFACTURING_STARTED	2026-12-01 21:44:20.243996+00	Uma	{}
386271313653661696	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:20.300853+00	Tomas	{}
386271313544613888	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:20.299554+00	Sam	{}
386271313494278144	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:20.309397+00	Uma	{}
386271313653661696	6	PACKAGING	2026-12-01 21:44:20.380859+00	Tomas	{}
386271313544613888	6	PACKAGING	2026-12-01 21:44:20.384634+00	Sam	{}
386271313494278144	6	PACKAGING	2026-12-01 21:44:20.422208+00	Uma	{}
386271313653661696	7	SHIPPED	2026-12-01 21:44:20.53822+00	Tomas	{}
386271313544613888	7	SHIPPED	2026-12-01 21:44:20.537258+00	Sam	{}
386271313494278144	7	SHIPPED	2026-12-01 21:44:20.551922+00	Uma	{}
386271313838215168	8	CLOSED	2026-12-01 21:44:20.550021+00	Nadia	{}
386271313653661696	8	CLOSED	2026-12-01 21:44:21.410178+00	Petra	{}
386271313544613888	8	CLOSED	2026-12-01 21:44:21.465297+00	Nadia	{}
386271313494278144	8	CLOSED	2026-12-01 21:44:21.515887+00	Nadia	{}
386271311703310336	1	SUBMITTED	2026-12-01 21:44:17.639151+00	Dmitri Popov	{}
386271311732670465	1	SUBMITTED	2026-12-01 21:44:17.661325+00	Dmitri Popov	{}
386271311720087552	1	SUBMITTED	2026-12-01 21:44:17.662658+00	Ada Berg	{}
386271311703310336	2	PRICE_CALCULATED	2026-12-01 21:44:18.932667+00	pricing	{"items": [{"line_no": 1, "unit_price": "609.73"}], "price": "1219.46"}
386271311720087552	2	PRICE_CALCULATED	2026-12-01 21:44:19.09888+00	pricing	{"items": [{"line_no": 1, "unit_price": "285.65"}], "price": "285.65"}
386271311732670465	2	PRICE_CALCULATED	2026-12-01 21:44:19.341809+00	pricing	{"items": [{"line_no": 1, "unit_price": "107.99"}], "price": "215.98"}
386271311720087552	3	MANUFACTURING_APPROVED	2026-12-01 21:44:19.329795+00	Petra	{}
386271311703310336	3	MANUFACTURING_APPROVED	2026-12-01 21:44:19.379312+00	Petra	{}
386271311732670465	3	MANUFACTURING_APPROVED	2026-12-01 21:44:19.709061+00	Nadia	{}
386271311732670465	4	MANUFACTURING_STARTED	2026-12-01 21:44:20.660782+00	Uma	{}
386271311720087552	4	MANUFACTURING_STARTED	2026-12-01 21:44:20.669392+00	Viktor	{}
386271311703310336	4	MANUFACTURING_STARTED	2026-12-01 21:44:20.676277+00	Wanda	{}
386271311732670465	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:20.758946+00	Uma	{}
386271311720087552	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:20.761647+00	Viktor	{}
386271311703310336	5	MANUFACTURING_COMPLETED	2026-12-01 21:44:20.791894+00	Wanda	{}
386271311720087552	6	PACKAGING	2026-12-01 21:44:20.838435+00	Viktor	{}
386271311732670465	6	PACKAGING	2026-12-01 21:44:20.850078+00	Uma	{}
386271311703310336	6	PACKAGING	2026-12-01 21:44:20.855552+00	Wanda	{}
386271311720087552	7	SHIPPED	2026-12-01 21:44:20.910511+00	Viktor	{}
386271311703310336	7	SHIPPED	2026-12-01 21:44:21.092499+00	Wanda	{}
386271311732670465	7	SHIPPED	2026-12-01 21:44:21.09432+00	Uma	{}
386271311732670465	8	CLOSED	2026-12-01 21:44:21.59838+00	Nadia	{}
386271311720087552	8	CLOSED	2026-12-01 21:44:21.645527+00	Petra	{}
386271311703310336	8	CLOSED	2026-12-01 21:44:21.721738+00	Petra	{}
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
386271353092702208	1	gold_18k	polished	2	models/c8525710882fd11d01d8a59596529f69e387a66adc4af5460587e9c526cb581a.obj	band-ring-001.obj	849.00
386271360596312064	1	gold_18k	polished	2	models/f62196f2feaaa05a2fc46e4b57723b913ba8749626224cca467dc6e13d3cfe28.stl	disc-pendant-005.stl	747.36
386271363263897600	1	brass	matte	3	models/f42fd8e83ef4b922fcf69f01d0e82c6225e0fed8c17ca6b57b33a81bec0c6f33.stl	flower-pendant-006.stl	12.00
386271376018767872	1	gold_18k	polished	2	models/e0d96a34b02abe42682a34ddf6f2661327d2873a649912db653e18a6cb0c2828.3mf	signet-ring-011.3mf	1189.81
386271382092120064	1	gold_18k	polished	2	models/c1513039d2b4338b8ef11977df2b4b9ed446277d8d11a4da2c2af85d75d4d87c.obj	wave-ring-013.obj	270.20
386271388966584320	1	gold_18k	polished	2	models/3396046c93561bb48fcb6d6baf80f9773c6b8c00e549b6f096ef1260ead44fb3.stl	band-ring-015.stl	751.54
386271393882316800	1	brass	matte	3	models/dfe4c63cba51b94f0f1eb4ea54f385080272209eb39ea1e901e16ab9ebff2136.3mf	wave-ring-016.3mf	12.00
386271398345048064	1	gold_18k	polished	2	models/9e8fdcea4b93eb43600bdac8f8a305c06bb25c03199add43959b84142e62f858.stl	flower-pendant-017.stl	307.88
386271403655045120	1	brass	matte	3	models/4a0ee8cbf71ac8fc5842980c341314066eecfc85bf912643c97504862e00af15.stl	flower-pendant-019.stl	12.00
386271405177577472	1	brass	matte	3	models/a0bdc071b5747085d25eeed268e0195c02dfafc8543a070c11e4ca6b9162ab60.3mf	disc-pendant-020.3mf	12.00
386271409254432768	1	gold_18k	polished	2	models/a4b802916befe5e9e230755021897a850c03bd6cd86c4dd13fc19395fdcdfd69.obj	wave-ring-022.obj	279.67
386271409787117568	1	brass	matte	3	models/6473bea0f78f47d8b4d8458fcbc805c15d15a0d759d254ebf00a054cc8b3d1dd.stl	wave-ring-023.stl	12.00
386271415071932416	1	gold_18k	polished	2	models/03aa9a5c3910d40680c8f620763f9163cd321ccf1bee9fa7d4ba27eb95b37199.stl	round-ring-024.stl	\N
386271416078565376	1	gold_18k	polished	2	models/77125cdc6095db0664811be34f9d7c34ab66afec86c11b552a16177de744b800.obj	round-ring-026.obj	\N
386271416904851456	1	brass	matte	3	models/b33701ad9dccb6dcd7f7981c2b5d6f3db945eae9c99aa453375a0bc78447d15e.stl	signet-ring-027.stl	\N
\.


--
-- Data for Name: order_items_archive_2026_10; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.order_items_archive_2026_10 (order_id, line_no, material, finish, quantity, model_key, model_name, unit_price) FROM stdin;
373587775959597056	1	brass	matte	1	models/373587775959597056.stl	ring.stl	90.00
373587775959597057	1	brass	matte	1	models/373587775959597057.stl	ring.stl	90.00
373587775959597058	1	brass	matte	1	models/373587775959597058.stl	ring.stl	90.00
373587775959597060	1	brass	matte	1	models/373587775959597060.stl	ring.stl	90.00
373587775959597062	1	brass	matte	1	models/373587775959597062.stl	ring.stl	90.00
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
386271311925612544	1	silver_925	matte	1	models/feee458fc31ab3265a824ca88bcc5f4a3d7af0c7b7f588197da0430c7143dffd.obj	cut-off.obj	\N
386271313544613888	1	silver_925	polished	2	models/2533209f50d7a43ffbde25d5ce036f061626fd0233fa8f33b5b67d423968c41f.stl	signet-ring-006.stl	30.11
386271313838215168	1	brass	matte	2	models/07bb1e504902d26ec8e1c243d5b35cdf6b1457ce8d5912c9e8793c8c299e6b5c.3mf	band-ring-002.3mf	12.00
386271313653661696	1	platinum_950	matte	3	models/19102f2434ccfc8b361e476c5980ab045b136de8fd76097f25f5cfde29b91747.stl	disc-pendant-001.stl	203.80
386271313494278144	1	gold_14k	matte	3	models/2533209f50d7a43ffbde25d5ce036f061626fd0233fa8f33b5b67d423968c41f.stl	signet-ring-006.stl	724.50
386271311703310336	1	gold_18k	matte	2	models/07bb1e504902d26ec8e1c243d5b35cdf6b1457ce8d5912c9e8793c8c299e6b5c.3mf	band-ring-002.3mf	609.73
386271311720087552	1	gold_14k	brushed	1	models/24dd715791b7e8799d18fa89d10da2f42b2ecc3a7af79c7aa76df84b07098d93.stl	band-ring-004.stl	285.65
386271311732670465	1	platinum_950	polished	2	models/217070c017d56c70e787e784838698b7a8188a6480ee6ac4325ffdc54d0ead81.stl	round-ring-005.stl	107.99
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
373587775959597056	CLOSED	B2C	a ring	\N	\N	90.00	\N	1	2026-12-01 21:44:26.760761+00	2026-12-01 21:44:26.760761+00
373587775959597057	CLOSED	B2C	a ring	\N	\N	90.00	\N	1	2026-12-01 21:44:26.760761+00	2026-12-01 21:44:26.760761+00
373587775959597058	CLOSED	B2C	a ring	\N	\N	90.00	\N	1	2026-12-01 21:44:26.760761+00	2026-12-01 21:44:26.760761+00
373587775959597060	CLOSED	B2C	a ring	\N	\N	90.00	\N	1	2026-12-01 21:44:26.760761+00	2026-12-01 21:44:26.760761+00
373587775959597062	CLOSED	B2C	a ring	\N	\N	90.00	\N	1	2026-12-01 21:44:26.760761+00	2026-12-01 21:44:26.760761+00
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
386271311925612544	REJECTED	B2B	1 x cut-off.obj, silver_925, matte	casa-oro	\N	\N	The model has holes: 50 edges belong to one face only. Close them and upload it again.	2	2026-12-01 21:44:17.492208+00	2026-12-01 21:44:18.727676+00
386271313838215168	CLOSED	B2B	2 x band-ring-002.3mf, brass, matte	atelier-nord	Tomas	24.00	\N	8	2026-12-01 21:44:17.892096+00	2026-12-01 21:44:20.550021+00
386271313653661696	CLOSED	B2C	3 x disc-pendant-001.stl, platinum_950, matte	\N	Tomas	611.40	\N	8	2026-12-01 21:44:17.887555+00	2026-12-01 21:44:21.410178+00
386271313544613888	CLOSED	B2B	2 x signet-ring-006.stl, silver_925, polished	casa-oro	Sam	60.22	\N	8	2026-12-01 21:44:17.73513+00	2026-12-01 21:44:21.465297+00
386271313494278144	CLOSED	B2C	3 x signet-ring-006.stl, gold_14k, matte	\N	Uma	2173.50	\N	8	2026-12-01 21:44:17.884242+00	2026-12-01 21:44:21.515887+00
386271311732670465	CLOSED	B2C	2 x round-ring-005.stl, platinum_950, polished	\N	Uma	215.98	\N	8	2026-12-01 21:44:17.661325+00	2026-12-01 21:44:21.59838+00
386271311720087552	CLOSED	B2C	1 x band-ring-004.stl, gold_14k, brushed	\N	Viktor	285.65	\N	8	2026-12-01 21:44:17.662658+00	2026-12-01 21:44:21.645527+00
386271311703310336	CLOSED	B2C	2 x band-ring-002.3mf, gold_18k, matte	\N	Wanda	1219.46	\N	8	2026-12-01 21:44:17.639151+00	2026-12-01 21:44:21.721738+00
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
386271382092120064	CANCELLED	B2C	2 x wave-ring-013.obj, gold_18k, polished	\N	\N	540.40	too expensive	3	2026-12-01 21:44:34.147727+00	2026-12-01 21:44:34.660479+00
386271388966584320	CLOSED	B2C	2 x band-ring-015.stl, gold_18k, polished	\N	Rosa	1503.08	\N	8	2026-12-01 21:44:35.754718+00	2026-12-01 21:44:36.801725+00
386271393882316800	CLOSED	B2B	3 x wave-ring-016.3mf, brass, matte	atelier-nord	Rosa	36.00	\N	8	2026-12-01 21:44:36.897792+00	2026-12-01 21:44:37.9158+00
386271398345048064	REJECTED	B2C	2 x flower-pendant-017.stl, gold_18k, polished	\N	Rosa	615.76	the wall is too thin	5	2026-12-01 21:44:38.010657+00	2026-12-01 21:44:38.693638+00
\.


--
-- Data for Name: orders_hot; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.orders_hot (order_id, status, channel, summary, partner, operator, price, reason, version, created_at, changed_at) FROM stdin;
386271353092702208	PRICE_CALCULATED	B2C	2 x band-ring-001.obj, gold_18k, polished	\N	\N	1698.00	\N	2	2026-12-01 21:44:27.180825+00	2026-12-01 21:44:27.359404+00
386271360596312064	MANUFACTURING_STARTED	B2C	2 x disc-pendant-005.stl, gold_18k, polished	\N	Rosa	1494.72	\N	4	2026-12-01 21:44:28.975389+00	2026-12-01 21:44:29.558719+00
386271363263897600	MANUFACTURING_STARTED	B2B	3 x flower-pendant-006.stl, brass, matte	atelier-nord	Rosa	36.00	\N	4	2026-12-01 21:44:29.583015+00	2026-12-01 21:44:30.106785+00
386271376018767872	SHIPPED	B2C	2 x signet-ring-011.3mf, gold_18k, polished	\N	Rosa	2379.62	\N	7	2026-12-01 21:44:32.654898+00	2026-12-01 21:44:33.389632+00
386271403655045120	PRICE_CALCULATED	B2B	3 x flower-pendant-019.stl, brass, matte	atelier-nord	\N	36.00	\N	2	2026-12-01 21:44:39.213271+00	2026-12-01 21:44:39.430426+00
386271405177577472	PRICE_CALCULATED	B2B	3 x disc-pendant-020.3mf, brass, matte (spring)	atelier-nord	\N	36.00	\N	3	2026-12-01 21:44:39.580774+00	2026-12-01 21:44:39.761728+00
386271409254432768	SHIPPED	B2C	2 x wave-ring-022.obj, gold_18k, polished	\N	Rosa	559.34	\N	7	2026-12-01 21:44:40.594515+00	2026-12-01 21:44:41.881758+00
386271409787117568	SHIPPED	B2B	3 x wave-ring-023.stl, brass, matte	atelier-nord	Rosa	36.00	\N	7	2026-12-01 21:44:40.678576+00	2026-12-01 21:44:41.909841+00
386271415071932416	SUBMITTED	B2C	2 x round-ring-024.stl, gold_18k, polished	\N	\N	\N	\N	1	2026-12-01 21:44:41.99095+00	2026-12-01 21:44:41.99095+00
386271416078565376	SUBMITTED	B2C	2 x round-ring-026.obj, gold_18k, polished	\N	\N	\N	\N	1	2026-12-01 21:44:42.240034+00	2026-12-01 21:44:42.240034+00
386271416904851456	SUBMITTED	B2B	3 x signet-ring-027.stl, brass, matte	atelier-nord	\N	\N	\N	1	2026-12-01 21:44:42.374203+00	2026-12-01 21:44:42.374203+00
\.


--
-- Data for Name: outbox; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.outbox (order_id, sequence, message_id, destination, type, data, created_at, attempts, next_attempt_at, set_aside_at, set_aside_reason) FROM stdin;
386271409787117568	145	1855d5f3-037d-4fe9-9da3-f2c3d03c18f6	crm	order.shipped	{"actor": "Rosa"}	2026-12-01 21:44:41.909841+00	1	2026-12-01 21:44:43.608092+00	\N	\N
386271409254432768	143	22e286c4-7d61-47b9-bb60-0044b5050f48	crm	order.shipped	{"actor": "Rosa"}	2026-12-01 21:44:41.881758+00	1	2026-12-01 21:44:43.665434+00	\N	\N
386271416904851456	146	d9f528ee-6846-4435-9cb5-2320a15fcb22	crm	order.submitted	{"actor": "atelier-nord", "items": [{"finish": "matte", "line_no": 1, "material": "brass", "quantity": 3, "model_key": "models/b33701ad9dccb6dcd7f7981c2b5d6f3db945eae9c99aa453375a0bc78447d15e.stl", "model_name": "signet-ring-027.stl"}], "channel": "B2B", "partner": "atelier-nord", "summary": "3 x signet-ring-027.stl, brass, matte", "customer": null, "submitted_at": "2026-12-01T21:44:42.374203Z"}	2026-12-01 21:44:42.374203+00	0	2026-12-01 21:44:42.375083+00	\N	\N
\.


--
-- Data for Name: partner_requests; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.partner_requests (request_key, partner, idempotency_key, request_digest, order_id, message_id, created_at) FROM stdin;
1130980723262643026	casa-oro	demo-1-2	dd37eb26dd7a087fed8fce4a557090044800d91da1eb9298c67c3e7a4a792b29	386271311925612544	9a6913c2-e0c5-492c-9f02-ac3e03408ae3	2026-12-01 21:44:17.465803+00
1042357932094259995	casa-oro	demo-1-9	16a0511f1dc224f7344684d44eb68f52809d018cd932a7900ce2d26d61d7c309	386271313544613888	85c197c1-cde6-427c-9cd8-06ca720048fb	2026-12-01 21:44:17.726622+00
309429297137770499	casa-oro	demo-1-14	7a5f47bbc5bb733dd79d0f62e71358b2d5d797aefc0959840959a744ddd4d08d	386271313800466432	662c06a0-b5b8-4a76-8594-66709cdf9f29	2026-12-01 21:44:17.795903+00
-8897952592538250904	atelier-nord	key-6	4d29c25da151d0560edca2704a40389c0ece993b9750225ddb7ab9e7c5b512f4	386271363263897600	5314808f-97e3-4c6e-97fc-958929888065	2026-12-01 21:44:29.579549+00
508061782236345631	atelier-nord	key-8	5a9ccfe45a9b07f0506ba6f75171b4ea1681e1ca2755a5d29171728e929e5648	386271368397725696	c174e747-c27c-4f18-aacc-f24bf001b2bc	2026-12-01 21:44:30.803137+00
-7424621635878301028	atelier-nord	key-14	ee5dac9b1b895af120fe5343a9c1d84346c85fd13f94ca0acd62c0a6f758b331	386271385342713856	3c1ba1ca-993e-4e70-8bd0-5991fec459f3	2026-12-01 21:44:34.842768+00
8700095960603749689	atelier-nord	key-18	074bb18bacd6f62d54d9fa20d897b713630736ae86e72822adc9dcd4bdaa8bf5	386271401671139328	3d68d10c-5605-424e-a05c-8103e2ce6e6f	2026-12-01 21:44:38.736046+00
-3932791341787523442	atelier-nord	key-19	c60d094980265d69b85f5939c5d93b8a6a493045f5c774066e1a6e9e45d050ee	386271403655045120	ce7a073d-48fe-421a-ace8-d85c1df67313	2026-12-01 21:44:39.208311+00
6718845545142500868	atelier-nord	key-20	0012245689912584d9e181d6f82de63a6c7ac9ede319e11326893bacfc85a24e	386271405177577472	a04b5011-7908-445d-93f2-ce4e6ee36204	2026-12-01 21:44:39.572008+00
-2925078592346418329	atelier-nord	key-25	04045a76776d5d1f2688488499fcc26a5c5211f06b00bd66c809108b58ec3465	386271415789166592	b789ef63-c0ac-40d9-9b58-87780938158b	2026-12-01 21:44:42.101238+00
87758458257767646	atelier-nord	key-27	8f8f2f4f590e6bc6a139c8b01bdf855c846a9b55beb10d8a775a76eff3666922	386271416904851456	15720570-91cc-485b-a455-d9067dddd7ab	2026-12-01 21:44:42.369136+00
\.


--
-- Data for Name: pricing_jobs; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.pricing_jobs (order_id, attempts, leased_by, lease_expires_at) FROM stdin;
386271415071932416	0	\N	2026-12-01 21:44:42.02392+00
386271416078565376	0	\N	2026-12-01 21:44:42.292158+00
386271416904851456	0	\N	2026-12-01 21:44:42.375083+00
\.


--
-- Data for Name: reference_versions; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.reference_versions (table_name, version, checksum, applied_at) FROM stdin;
materials	1	0861d79f72ee61df75d4693b309c540b46c41652f1fa6869a4756da1c109eb91	2026-12-01 21:44:10.164715+00
finishes	1	4790888eb0548ea6dd1569e54bd7ef53988f1ae8ffb8f5a84a189206097d1e28	2026-12-01 21:44:10.173814+00
tariffs	1	27db45ccf540bd4458564631717da98a04619e189e26dd1623441af9eea58ee9	2026-12-01 21:44:10.183407+00
\.


--
-- Data for Name: shard_identity; Type: TABLE DATA; Schema: public; Owner: mes_owner
--

COPY public.shard_identity (singleton, shard, map_version, owned, changed_at) FROM stdin;
1	mes_1	1	0000000000000000000000000000000011111111111111111111111111111111	2026-12-01 21:44:10.040298+00
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

SELECT pg_catalog.setval('public.outbox_sequence_seq', 146, true);


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


