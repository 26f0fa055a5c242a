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

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: alembic_version; Type: TABLE; Schema: public; Owner: directory_owner
--

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);


ALTER TABLE public.alembic_version OWNER TO directory_owner;

--
-- Name: migration_ledger; Type: TABLE; Schema: public; Owner: directory_owner
--

CREATE TABLE public.migration_ledger (
    entry_id bigint NOT NULL,
    database text NOT NULL,
    tree text NOT NULL,
    revision text NOT NULL,
    direction text NOT NULL,
    state text NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    duration_seconds double precision,
    error text
);


ALTER TABLE public.migration_ledger OWNER TO directory_owner;

--
-- Name: migration_ledger_entry_id_seq; Type: SEQUENCE; Schema: public; Owner: directory_owner
--

ALTER TABLE public.migration_ledger ALTER COLUMN entry_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.migration_ledger_entry_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: node_leases; Type: TABLE; Schema: public; Owner: directory_owner
--

CREATE TABLE public.node_leases (
    node integer NOT NULL,
    holder text NOT NULL,
    ceiling_ms bigint NOT NULL,
    expires_at timestamp with time zone NOT NULL
);


ALTER TABLE public.node_leases OWNER TO directory_owner;

--
-- Name: reference_contents; Type: TABLE; Schema: public; Owner: directory_owner
--

CREATE TABLE public.reference_contents (
    table_name text NOT NULL,
    version integer NOT NULL,
    rows jsonb NOT NULL,
    checksum text NOT NULL,
    published_at timestamp with time zone DEFAULT now() NOT NULL
);


ALTER TABLE public.reference_contents OWNER TO directory_owner;

--
-- Name: shard_map_versions; Type: TABLE; Schema: public; Owner: directory_owner
--

CREATE TABLE public.shard_map_versions (
    version integer NOT NULL,
    owners text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);


ALTER TABLE public.shard_map_versions OWNER TO directory_owner;

--
-- Name: two_phase_decisions; Type: TABLE; Schema: public; Owner: directory_owner
--

CREATE TABLE public.two_phase_decisions (
    unit_id text NOT NULL,
    decision text NOT NULL,
    label text NOT NULL,
    shards text NOT NULL,
    decided_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone
);


ALTER TABLE public.two_phase_decisions OWNER TO directory_owner;

--
-- Data for Name: alembic_version; Type: TABLE DATA; Schema: public; Owner: directory_owner
--

COPY public.alembic_version (version_num) FROM stdin;
0003
\.


--
-- Data for Name: migration_ledger; Type: TABLE DATA; Schema: public; Owner: directory_owner
--

COPY public.migration_ledger (entry_id, database, tree, revision, direction, state, started_at, duration_seconds, error) FROM stdin;
1	directory	directory	0001	up	done	2026-12-01 21:44:09.332665+00	0.01	\N
2	directory	directory	0002	up	done	2026-12-01 21:44:09.335665+00	0.007	\N
3	directory	directory	0003	up	done	2026-12-01 21:44:09.353797+00	0.007	\N
4	shop	shop	0001	up	done	2026-12-01 21:44:09.413625+00	0.013	\N
5	crm	crm	0001	up	done	2026-12-01 21:44:09.490502+00	0.01	\N
6	mes_0	mes	0001	up	done	2026-12-01 21:44:09.565601+00	0.035	\N
7	mes_0	mes	0002	up	done	2026-12-01 21:44:09.622405+00	0.011	\N
8	mes_0	mes	0003	up	done	2026-12-01 21:44:09.650741+00	0.012	\N
9	mes_1	mes	0001	up	done	2026-12-01 21:44:09.712701+00	0.027	\N
10	mes_1	mes	0002	up	done	2026-12-01 21:44:09.761494+00	0.008	\N
11	mes_1	mes	0003	up	done	2026-12-01 21:44:09.790857+00	0.008	\N
\.


--
-- Data for Name: node_leases; Type: TABLE DATA; Schema: public; Owner: directory_owner
--

COPY public.node_leases (node, holder, ceiling_ms, expires_at) FROM stdin;
1	mes@factory:13252	92094316762	2026-12-01 21:45:16.76222+00
0	shop@factory:13251	92094331578	2026-12-01 21:45:31.578201+00
2	mes@factory:13416	92094340635	2026-12-01 21:45:40.634954+00
\.


--
-- Data for Name: reference_contents; Type: TABLE DATA; Schema: public; Owner: directory_owner
--

COPY public.reference_contents (table_name, version, rows, checksum, published_at) FROM stdin;
materials	1	[{"loss": 1.0600, "material": "gold_18k", "eur_per_g": 78.0000, "density_g_per_cm3": 15.5000}, {"loss": 1.0600, "material": "gold_14k", "eur_per_g": 61.0000, "density_g_per_cm3": 13.1000}, {"loss": 1.1000, "material": "silver_925", "eur_per_g": 1.2000, "density_g_per_cm3": 10.3600}, {"loss": 1.0800, "material": "platinum_950", "eur_per_g": 41.0000, "density_g_per_cm3": 21.4000}, {"loss": 1.1500, "material": "brass", "eur_per_g": 0.0600, "density_g_per_cm3": 8.5000}]	0861d79f72ee61df75d4693b309c540b46c41652f1fa6869a4756da1c109eb91	2026-12-01 21:44:10.153746+00
finishes	1	[{"finish": "polished", "eur_per_cm2": 1.4000}, {"finish": "matte", "eur_per_cm2": 0.9000}, {"finish": "brushed", "eur_per_cm2": 1.1000}, {"finish": "hammered", "eur_per_cm2": 2.2000}]	4790888eb0548ea6dd1569e54bd7ef53988f1ae8ffb8f5a84a189206097d1e28	2026-12-01 21:44:10.165662+00
tariffs	1	[{"tariff": "standard", "minimum_eur": 12.00, "tree_eur_per_cm3": 0.8000, "machine_eur_per_hour": 36.0000, "machine_seconds_per_1000_polygons": 1.5000}]	27db45ccf540bd4458564631717da98a04619e189e26dd1623441af9eea58ee9	2026-12-01 21:44:10.174663+00
\.


--
-- Data for Name: shard_map_versions; Type: TABLE DATA; Schema: public; Owner: directory_owner
--

COPY public.shard_map_versions (version, owners, created_at) FROM stdin;
1	mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_0,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1,mes_1	2026-12-01 21:44:09.960167+00
\.


--
-- Data for Name: two_phase_decisions; Type: TABLE DATA; Schema: public; Owner: directory_owner
--

COPY public.two_phase_decisions (unit_id, decision, label, shards, decided_at, finished_at) FROM stdin;
a51676ae438c49829f2cf950a880724e	commit	rename a collection	mes_0,mes_1	2026-12-01 21:44:40.508074+00	2026-12-01 21:44:40.527476+00
00000000000000000000000000000000	abort	presumed abort	mes_0,mes_1	2026-12-01 21:44:40.533888+00	\N
\.


--
-- Name: migration_ledger_entry_id_seq; Type: SEQUENCE SET; Schema: public; Owner: directory_owner
--

SELECT pg_catalog.setval('public.migration_ledger_entry_id_seq', 11, true);


--
-- Name: alembic_version alembic_version_pkc; Type: CONSTRAINT; Schema: public; Owner: directory_owner
--

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);


--
-- Name: migration_ledger migration_ledger_pkey; Type: CONSTRAINT; Schema: public; Owner: directory_owner
--

ALTER TABLE ONLY public.migration_ledger
    ADD CONSTRAINT migration_ledger_pkey PRIMARY KEY (entry_id);


--
-- Name: node_leases node_leases_pkey; Type: CONSTRAINT; Schema: public; Owner: directory_owner
--

ALTER TABLE ONLY public.node_leases
    ADD CONSTRAINT node_leases_pkey PRIMARY KEY (node);


--
-- Name: reference_contents reference_contents_pkey; Type: CONSTRAINT; Schema: public; Owner: directory_owner
--

ALTER TABLE ONLY public.reference_contents
    ADD CONSTRAINT reference_contents_pkey PRIMARY KEY (table_name, version);


--
-- Name: shard_map_versions shard_map_versions_pkey; Type: CONSTRAINT; Schema: public; Owner: directory_owner
--

ALTER TABLE ONLY public.shard_map_versions
    ADD CONSTRAINT shard_map_versions_pkey PRIMARY KEY (version);


--
-- Name: two_phase_decisions two_phase_decisions_pkey; Type: CONSTRAINT; Schema: public; Owner: directory_owner
--

ALTER TABLE ONLY public.two_phase_decisions
    ADD CONSTRAINT two_phase_decisions_pkey PRIMARY KEY (unit_id);


--
-- Name: migration_ledger_database_entry_id_idx; Type: INDEX; Schema: public; Owner: directory_owner
--

CREATE INDEX migration_ledger_database_entry_id_idx ON public.migration_ledger USING btree (database, entry_id);


--
-- Name: TABLE node_leases; Type: ACL; Schema: public; Owner: directory_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.node_leases TO shop;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.node_leases TO crm;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.node_leases TO mes;


--
-- Name: TABLE reference_contents; Type: ACL; Schema: public; Owner: directory_owner
--

GRANT SELECT,INSERT ON TABLE public.reference_contents TO mes;


--
-- Name: TABLE shard_map_versions; Type: ACL; Schema: public; Owner: directory_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.shard_map_versions TO shop;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.shard_map_versions TO crm;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.shard_map_versions TO mes;


--
-- Name: TABLE two_phase_decisions; Type: ACL; Schema: public; Owner: directory_owner
--

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.two_phase_decisions TO mes;


--
-- PostgreSQL database dump complete
--


