"""What a cluster is built of: engines of the right kind, and a listener that hears of each."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from readreplica import cluster, engines
from readreplica.errors import ReadReplicaError, WrongEngine
from readreplica.sync import cluster as sync_cluster
from readreplica.sync import engines as sync_engines

NOWHERE = make_url("postgresql+psycopg://u@127.0.0.1:1/d")


class Kit:
    """Clusters and engines of one version: for asyncio, or for threads."""

    def __init__(self, module: ModuleType, engines_module: ModuleType, plain: Callable[..., Any]) -> None:
        self.module = module
        self.engines = engines_module
        self.plain = plain

    def writer(self) -> Any:
        return self.engines.writer_engine(NOWHERE, application_name="test")

    def reader(self) -> Any:
        return self.engines.reader_engine(NOWHERE, application_name="test")

    def cluster(self, **parts: Any) -> Any:
        usual = {"primary": self.writer(), "primary_reader": self.reader(), "replicas": {"r1": self.reader()}}
        return self.module.Cluster("main", **{**usual, **parts})


@pytest.fixture(params=["asyncio", "threads"])
def kit(request: pytest.FixtureRequest) -> Iterator[Kit]:
    if request.param == "asyncio":
        yield Kit(cluster, engines, create_async_engine)
    else:
        yield Kit(sync_cluster, sync_engines, create_engine)


@pytest.mark.parametrize(
    ("part", "named", "needed"),
    [
        ("primary", "the primary of cluster main", "writer"),
        ("primary_reader", "the primary_reader of cluster main", "reader"),
        ("replicas", "the replica 'r1' of cluster main", "reader"),
    ],
)
def test_an_engine_of_another_kind_is_refused_before_anything_connects(
    kit: Kit, part: str, named: str, needed: str
) -> None:
    other_kind = kit.reader() if needed == "writer" else kit.writer()
    for engine, found in ((kit.plain(NOWHERE), "another"), (other_kind, "a ")):
        with pytest.raises(WrongEngine) as caught:
            kit.cluster(**{part: {"r1": engine} if part == "replicas" else engine})
        assert isinstance(caught.value, ReadReplicaError)
        for words in (f"{named} needs a {needed} engine, and this is {found}", f"{kit.engines.__name__}."):
            assert words in str(caught.value)


def test_an_engine_of_the_other_version_is_refused() -> None:
    asyncio, threads = (
        Kit(cluster, engines, create_async_engine),
        Kit(sync_cluster, sync_engines, create_engine),
    )
    for kit, other in ((asyncio, threads), (threads, asyncio)):
        with pytest.raises(WrongEngine, match="the primary of cluster main needs a writer engine"):
            kit.cluster(primary=other.writer())


def test_a_replica_that_is_added_must_be_a_reader(kit: Kit) -> None:
    made = kit.cluster(replicas={})
    with pytest.raises(WrongEngine, match="the replica 'r2' of cluster main"):
        made.add_replica("r2", kit.plain(NOWHERE))


def test_an_engine_with_options_of_its_own_stays_of_its_kind(kit: Kit) -> None:
    kit.cluster(primary=kit.writer().execution_options(logging_token="w"))


async def test_a_listener_hears_of_each_engine_once_and_of_those_that_come_later() -> None:
    kit = Kit(cluster, engines, create_async_engine)
    parts = {"primary": kit.writer(), "primary_reader": kit.reader(), "replicas": {"r1": kit.reader()}}
    made, heard = kit.cluster(**parts), list[Any]()
    made.on_engine(heard.append)
    made.on_engine(heard.append)
    expected = [parts["primary"], parts["primary_reader"], parts["replicas"]["r1"]]
    assert heard == expected
    later = kit.reader()
    made.add_replica("r2", later)
    assert heard == [*expected, later]
    await made.close()


def test_a_listener_for_threads_hears_of_the_same() -> None:
    kit = Kit(sync_cluster, sync_engines, create_engine)
    made, heard, later = kit.cluster(), list[Any](), kit.reader()
    made.on_engine(heard.append)
    made.add_replica("r2", later)
    assert len(heard) == 4
    assert heard[-1] is later
    made.close()
