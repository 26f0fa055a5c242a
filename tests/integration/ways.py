"""The two ways to the servers: a test that takes the fixture `way` is run on each of them."""

from collections.abc import Iterator, Mapping

import pytest

DIRECT, PGBOUNCER = "direct", "pgbouncer"

_OPTION = (
    "a pooler drops the option by which the server refuses writes; test_readreplica_pooler has this case"
)
_NAME = "a pooler's connection to a server keeps the application's name of whoever used it last"
_SLOTS = "clients of a pooler take no slot of the server; test_pgbouncer_outages fills a pool"

DIRECT_ONLY: Mapping[str, str] = {
    "test_autocommit_has_no_snapshot_and_the_server_refuses_to_write_all_the_same": _OPTION,
    "test_a_connection_that_served_autocommit_gives_snapshots_again": _OPTION,
    "test_a_reader_cannot_write_and_has_the_snapshot_that_it_asked_for": _OPTION,
    "test_many_readers_wait_with_one_connection": _NAME,
    "test_a_full_server_costs_nobody_the_connection_that_he_has": _SLOTS,
}
"""Tests that make no sense through a pooler, and why."""

DIRECT_FILES: Mapping[str, str] = {
    "test_readreplica_discovery.py": "it is about addresses, and a pooler's is one like any other",
    "test_readreplica_nodes.py": "other histories and addresses; test_readreplica_pooler has a replica "
    "that crashed behind a pooler",
    "test_readreplica_partition.py": "its hosts are namespaces; test_readreplica_patroni loses leaders, too",
    "test_readreplica_pooler.py": "what is different through a pooler",
    "test_readreplica_promotion.py": "test_pgbouncer_servers promotes behind a pooler",
    "test_readreplica_settle.py": "it cuts connections at COMMIT; test_readreplica_commits does, too",
    "test_readreplica_soak.py": "six hours; test_ten_thousand_reads_... is the same through a pooler",
}
"""Files in which no test is run on two ways, and why."""

SOAK_ONLY = frozenset(
    {
        # Each makes and breaks a pair of servers, for 5 s and more; their like are run every time.
        "test_a_primary_of_an_older_timeline_gets_no_writes_even_alone",
        "test_a_process_that_starts_after_a_failover_finds_the_primary_by_its_role",
        "test_a_process_that_starts_beside_a_demoted_primary_does_not_write_to_it",
        "test_a_planned_switch_over_drains_first",
        "test_two_primaries_on_one_timeline_do_not_move_the_writes",
        "test_a_primary_that_is_cut_off_holds_no_writer_up",
        "test_after_a_crash_that_the_postmaster_survives_an_id_is_not_believed",
        "test_a_rival_on_the_same_timeline_gets_no_writes_even_alone",
        "test_a_server_of_another_system_serves_nothing",
        # 12 s; test_readreplica_pooler has the same check, shorter.
        "test_ten_thousand_reads_see_their_own_writes_under_lag",
        # Patroni's other ways to lose a leader, 10 s and more each.
        "test_the_leader_is_killed_with_its_patroni_and_comes_back_alone",
        "test_the_leaders_patroni_is_frozen_and_its_server_goes_on",
        "test_leaders_are_killed_again_and_again_and_leases_run_out",
        # Of time that passes in clients alone.
        "test_with_everything_down_many_who_wait_cost_little",
        "test_a_replica_that_does_not_answer_holds_a_read_up_for_a_bounded_time",
    }
)
"""Tests that are run again through a pooler by `make soak` only."""


def ways_of(test: str) -> Iterator[object]:
    """Give the ways on which a test is run, as pytest's parameters."""
    yield DIRECT
    if test not in DIRECT_ONLY:
        yield pytest.param(PGBOUNCER, marks=[pytest.mark.soak] if test in SOAK_ONLY else [])
