"""The files of Envoy: a bootstrap that stays; listeners, clusters and secrets that it reads again.

Names are those of Envoy's API, version 3 (envoyproxy.io, "xDS"). Values that its edge guide names for a proxy
that strangers reach ("Configuring Envoy as an edge proxy") bear the comment `edge`.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ops.gateway.model import KIB, Gateway, GatewayDoor, GatewayRoute, Upstream

BOOTSTRAP = "bootstrap.json"
CLUSTERS = "clusters.json"
LISTENERS = "listeners.json"
ACCESS_LOG = "access.log"

DOOR_HEADER = "x-gateway-door"
"""Says to a service by which door a request came; what a client sends of it is removed."""

BUFFERED_BYTES = 1024 * KIB
_HEADER_KIB = 32
_MOST_HEADERS = 100
_SECRET = "secret-"
_STREAMS = 100
_IDLE_SECONDS = 60.0
_FORGED = (
    "forwarded",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
)
"""What a client may not say to a service: some programs believe it."""

_TYPES = "type.googleapis.com/envoy."
_MANAGER = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def _typed(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"{_TYPES}{kind}", **fields}


def _extension(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": _typed(kind, **fields)}


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}s"


def files_of(gateway: Gateway, folder: Path) -> dict[str, str]:
    """Return the text of each file, by its name.

    Parameters:
        gateway: what is to be let in.
        folder: where the files will be; Envoy watches it.
    """
    return {
        BOOTSTRAP: _json(_bootstrap(gateway, folder)),
        CLUSTERS: _versioned([_cluster(each, gateway) for each in gateway.upstreams]),
        LISTENERS: _versioned([_listener(door, gateway, folder, is_static=False) for door in gateway.doors]),
        **{secret_file(name): _versioned([secret]) for name, secret in _all_secrets(gateway).items()},
    }


def secret_file(name: str) -> str:
    """Return the file of a secret: Envoy takes one from each."""
    return f"{_SECRET}{name}.json"


def secret_names(texts: Iterable[str]) -> list[str]:
    """Return the names of the secrets whose files are among these."""
    return [name.removeprefix(_SECRET).removesuffix(".json") for name in texts if name.startswith(_SECRET)]


def static_file(gateway: Gateway, folder: Path) -> str:
    """Return a bootstrap that holds all of it, for `envoy --mode validate`, which reads no other file."""
    made = _bootstrap(gateway, folder)
    del made["dynamic_resources"]
    made["static_resources"] = {
        "listeners": [_listener(door, gateway, folder, is_static=True) for door in gateway.doors],
        "clusters": [_cluster(each, gateway) for each in gateway.upstreams],
        "secrets": list(_all_secrets(gateway).values()),
    }
    for resources in made["static_resources"].values():
        for resource in resources:
            del resource["@type"]
    return _json(made)


def version_of(text: str) -> str:
    """Return the version that stands in a file that Envoy reads again."""
    return str(json.loads(text)["version_info"])


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def _versioned(resources: list[dict[str, Any]]) -> str:
    version = hashlib.sha256(_json(resources).encode()).hexdigest()[:16]
    return _json({"version_info": version, "resources": resources})


def _bootstrap(gateway: Gateway, folder: Path) -> dict[str, Any]:
    section = gateway.section
    limits = _extension(
        "envoy.resource_monitors.global_downstream_max_connections",
        "extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        max_active_downstream_connections=sum(door.connections for door in section.doors.values()),
    )
    return {
        "node": {"id": "gateway", "cluster": "gateway"},
        "admin": {"address": _address("127.0.0.1", section.admin_port)},
        "dynamic_resources": {
            f"{api}_config": _watched(folder, name) for api, name in (("cds", CLUSTERS), ("lds", LISTENERS))
        },
        "overload_manager": {"resource_monitors": [limits]},
    }


def _watched(folder: Path, name: str) -> dict[str, Any]:
    source = {"path": str(folder / name), "watched_directory": {"path": str(folder)}}
    return {"resource_api_version": "V3", "path_config_source": source}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _source(host: str) -> dict[str, Any]:
    return {"address": host, "port_value": 0}


def _cluster(upstream: Upstream, gateway: Gateway) -> dict[str, Any]:
    """Balance over the processes of a service; one that fails several times gets none for a while."""
    endpoints = [{"endpoint": {"address": _address(host, port)}} for host, port in upstream.processes]
    is_address = all(host.replace(".", "").isdecimal() or ":" in host for host, _ in upstream.processes)
    source = gateway.section.source
    bound = {} if source is None else {"upstream_bind_config": {"source_address": _source(source)}}
    return _typed(
        "config.cluster.v3.Cluster",
        name=upstream.name,
        type="STATIC" if is_address else "STRICT_DNS",
        connect_timeout=_seconds(gateway.section.connect_seconds),
        lb_policy="LEAST_REQUEST",
        per_connection_buffer_limit_bytes=32 * KIB,  # edge
        **bound,
        load_assignment={"cluster_name": upstream.name, "endpoints": [{"lb_endpoints": endpoints}]},
        # A process that drains answers /readyz with 503 first.
        health_checks=[
            {
                "timeout": "1s",
                "interval": "2s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/readyz"},
            }
        ],
        # With every process away the health is not believed: a request may find one that is back.
        common_lb_config={"healthy_panic_threshold": {"value": 1.0}},
        outlier_detection={
            "consecutive_5xx": 0xFFFF,  # 500 is an answer, as of one poisonous request
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            "interval": "1s",
            "base_ejection_time": "5s",
            "max_ejection_percent": 50,
        },
        circuit_breakers={
            "thresholds": [
                {
                    "max_connections": 1024,
                    "max_pending_requests": 1024,
                    "max_requests": 4096,
                    "max_retries": 16,
                }
            ]
        },
    )


def _listener(door: GatewayDoor, gateway: Gateway, folder: Path, *, is_static: bool) -> dict[str, Any]:
    chain: dict[str, Any] = {
        "name": door.name,
        "filters": [_connection_limit(door), _manager(door, gateway, folder)],
        # Of TLS: a client that begins no handshake has a connection as well.
        "transport_socket_connect_timeout": _seconds(door.section.header_seconds),
    }
    if door.section.certificate is not None:
        chain["transport_socket"] = _tls(door, None if is_static else folder)
    return _typed(
        "config.listener.v3.Listener",
        name=door.name,
        address=_address(door.section.host, door.section.port),
        per_connection_buffer_limit_bytes=32 * KIB,  # edge
        listener_filters_timeout="5s",
        filter_chains=[chain],
    )


def _connection_limit(door: GatewayDoor) -> dict[str, Any]:
    return _extension(
        "envoy.filters.network.connection_limit",
        "extensions.filters.network.connection_limit.v3.ConnectionLimit",
        stat_prefix=door.name,
        max_connections=door.section.connections,
    )


def _tls(door: GatewayDoor, folder: Path | None) -> dict[str, Any]:
    """Return how a door takes TLS; without a folder, its secrets are in the same file."""

    def found(name: str) -> dict[str, Any]:
        return {"name": name} | (
            {} if folder is None else {"sds_config": _watched(folder, secret_file(name))}
        )

    common: dict[str, Any] = {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificate_sds_secret_configs": [found(_certificate_name(door))],
    }
    if door.section.clients_ca is not None:
        common["validation_context_sds_secret_config"] = found(_clients_name(door))
    return _extension(
        "envoy.transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context=common,
        require_client_certificate=door.section.clients_ca is not None,
    )


def _certificate_name(door: GatewayDoor) -> str:
    return f"{door.name}-certificate"


def _clients_name(door: GatewayDoor) -> str:
    return f"{door.name}-clients"


def _all_secrets(gateway: Gateway) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for door in gateway.doors for each in _secrets(door)}


def _secrets(door: GatewayDoor) -> Iterator[dict[str, Any]]:
    """Return the certificates of a door. Envoy reads the PEM files again when one comes in their folder."""
    section = door.section
    if section.certificate is not None and section.key is not None:
        certificate = {
            "certificate_chain": {"filename": str(door.file(section.certificate))},
            "private_key": {"filename": str(door.file(section.key))},
            "watched_directory": {"path": str(door.file(section.certificate).parent)},
        }
        yield _secret(_certificate_name(door), tls_certificate=certificate)
    if section.clients_ca is not None:
        authority = {
            "trusted_ca": {"filename": str(door.file(section.clients_ca))},
            "watched_directory": {"path": str(door.file(section.clients_ca).parent)},
        }
        yield _secret(_clients_name(door), validation_context=authority)


def _secret(name: str, **content: Any) -> dict[str, Any]:
    return _typed("extensions.transport_sockets.tls.v3.Secret", name=name, **content)


def _manager(door: GatewayDoor, gateway: Gateway, folder: Path) -> dict[str, Any]:
    internal = door.section.clients_ca is not None
    return _extension(
        "envoy.filters.network.http_connection_manager",
        _MANAGER,
        stat_prefix=door.name,
        # What a client says of where it is from is not believed.
        use_remote_address=True,
        xff_num_trusted_hops=0,
        forward_client_cert_details="SANITIZE_SET" if internal else "SANITIZE",
        **({"set_current_client_cert_details": {"uri": True, "dns": True}} if internal else {}),
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        strip_any_host_port=True,
        server_header_transformation="PASS_THROUGH",
        # One of our own, in the log, to the service, and in the answer: a client's is not believed.
        generate_request_id=True,
        always_set_request_id_in_response=True,
        max_request_headers_kb=_HEADER_KIB,
        # The routes have times of their own for the answer.
        request_headers_timeout=_seconds(door.section.header_seconds),
        request_timeout=_seconds(door.section.request_seconds),
        stream_idle_timeout=_seconds(door.section.idle_seconds),
        drain_timeout=_seconds(gateway.section.drain_seconds),
        delayed_close_timeout="1s",
        common_http_protocol_options={
            "idle_timeout": _seconds(_IDLE_SECONDS),
            "max_headers_count": _MOST_HEADERS,
            "headers_with_underscores_action": "REJECT_REQUEST",  # edge
        },
        http2_protocol_options={
            "max_concurrent_streams": _STREAMS,  # edge
            "initial_stream_window_size": 64 * KIB,
            "initial_connection_window_size": 1024 * KIB,
            # Rapid reset: more of these for each stream, and the connection is closed.
            "max_inbound_priority_frames_per_stream": 100,
            "max_outbound_frames": 10_000,
            "max_outbound_control_frames": 1000,
        },
        access_log=[_access_log(folder)],
        local_reply_config=_local_replies(),
        route_config=_routes(door, gateway),
        http_filters=[_buffer(BUFFERED_BYTES), _router()],
    )


def _access_log(folder: Path) -> dict[str, Any]:
    fields = {
        "@timestamp": "%START_TIME%",
        "message": "request_passed",
        "log.level": "info",
        "service.name": "gateway",
        "gateway.door": "%FILTER_CHAIN_NAME%",
        "http.request.method": "%REQ(:METHOD)%",
        # The path without its query, which may hold what is secret.
        "url.path": "%PATH(NQ)%",
        "url.domain": "%REQ(:AUTHORITY)%",
        "http.response.status_code": "%RESPONSE_CODE%",
        "event.duration_ms": "%DURATION%",
        "http.request.body.bytes": "%BYTES_RECEIVED%",
        "http.response.body.bytes": "%BYTES_SENT%",
        "gateway.flags": "%RESPONSE_FLAGS%",
        "gateway.upstream": "%UPSTREAM_HOST%",
        "http.request.id": "%REQ(X-REQUEST-ID)%",
        "traceparent": "%REQ(TRACEPARENT)%",
    }
    return _extension(
        "envoy.access_loggers.file",
        "extensions.access_loggers.file.v3.FileAccessLog",
        path=str(folder / ACCESS_LOG),
        log_format={"json_format": fields},
    )


def _local_replies() -> dict[str, Any]:
    """Answer what Envoy refuses by itself as the services answer: problem+json, of RFC 9457."""
    return {
        "body_format": {
            "content_type": "application/problem+json",
            "json_format": {
                "type": "about:blank",
                "title": "%RESPONSE_CODE_DETAILS%",
                "status": "%RESPONSE_CODE%",
            },
        }
    }


def _routes(door: GatewayDoor, gateway: Gateway) -> dict[str, Any]:
    services = sorted({route.service for route in door.routes})
    return {
        "name": door.name,
        "ignore_port_in_host_matching": True,
        "request_headers_to_add": [
            {
                "header": {"key": DOOR_HEADER, "value": door.name},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }
        ],
        "request_headers_to_remove": list(_FORGED),
        # A host that is none of ours has no virtual host, and is answered 404.
        "virtual_hosts": [
            {
                "name": f"{door.name} {service}",
                "domains": list(door.section.names[service]),
                "routes": [
                    _no_encoding(),
                    *_tried_out(door, gateway, service),
                    *(_route(each) for each in door.routes if each.service == service),
                ],
            }
            for service in services
        ],
    }


def _tried_out(door: GatewayDoor, gateway: Gateway, service: str) -> Iterator[dict[str, Any]]:
    """Lead who sends a key for trying out to what is for that, and to nothing else."""
    section, sandbox = gateway.section.sandbox, gateway.sandbox_of(service)
    if section is None or sandbox is None:
        return
    # As the services read it: the scheme in any case, and one space.
    regex = f"(?i:bearer) {re.escape(section.prefix)}.*"
    header = {"name": "authorization", "string_match": {"safe_regex": {"regex": regex}}}
    for each in door.routes:
        if each.service == service:
            route = _route(each)
            route["name"] = f"{each.path} {sandbox.name}"
            route["match"]["headers"].append(header)
            route["route"]["cluster"] = sandbox.name
            yield route


def _no_encoding() -> dict[str, Any]:
    """Refuse a body that is compressed: no service reads one, and a small one may become very large."""
    encodings = {"name": "content-encoding", "string_match": {"exact": "identity"}, "invert_match": True}
    return {
        "name": "content-encoding",
        "match": {"prefix": "/", "headers": [{"name": "content-encoding", "present_match": True}, encodings]},
        "direct_response": {"status": 415},
        "response_headers_to_add": [{"header": {"key": "accept-encoding", "value": "identity"}}],
    }


def _route(route: GatewayRoute) -> dict[str, Any]:
    methods = sorted({*route.methods, *(("HEAD",) if "GET" in route.methods else ())})
    action: dict[str, Any] = {
        "cluster": route.service,
        "timeout": "0s" if route.is_stream else _seconds(route.seconds),
        "retry_policy": _retries(route),
    }
    if route.is_stream:
        action["idle_timeout"] = "0s"
    return {
        "name": route.path,
        "match": {
            "safe_regex": {"regex": route.pattern},
            "headers": [{"name": ":method", "string_match": {"safe_regex": {"regex": "|".join(methods)}}}],
        },
        "route": action,
        "typed_per_filter_config": dict([_body_limit(route)]),
    }


def _retries(route: GatewayRoute) -> dict[str, Any]:
    """Repeat what no process has seen; where it is harmless, also what one has begun."""
    retry_on = ["connect-failure", "refused-stream", "reset-before-request"]
    if route.is_repeatable:
        retry_on += ["gateway-error", "reset"]
    return {
        "retry_on": ",".join(retry_on),
        "num_retries": 2,
        "retry_host_predicate": [
            _extension(
                "envoy.retry_host_predicates.previous_hosts",
                "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            )
        ],
        # Each attempt draws a process anew, and of two it draws the same one every other time.
        "host_selection_retry_max_attempts": 20,
    }


def _body_limit(route: GatewayRoute) -> tuple[str, dict[str, Any]]:
    kind = "extensions.filters.http.buffer.v3.BufferPerRoute"
    if route.is_stream or route.body_bytes > BUFFERED_BYTES:
        return "envoy.filters.http.buffer", _typed(kind, disabled=True)
    limit = {"max_request_bytes": max(1, route.body_bytes)}
    return "envoy.filters.http.buffer", _typed(kind, buffer=limit)


def _buffer(max_bytes: int) -> dict[str, Any]:
    return _extension(
        "envoy.filters.http.buffer", "extensions.filters.http.buffer.v3.Buffer", max_request_bytes=max_bytes
    )


def _router() -> dict[str, Any]:
    return _extension("envoy.filters.http.router", "extensions.filters.http.router.v3.Router")
