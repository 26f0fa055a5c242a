"""Settings come from the environment; what is wrong with one is said in one line."""

from pathlib import Path

import pytest

from app.settings import SettingsInvalid, load_settings


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MES_STORAGE_TOPOLOGY", "here/topology.toml")
    monkeypatch.setenv("MES_STORAGE_MAX_UPLOAD_BYTES", "1000")
    settings = load_settings()
    assert settings.topology == Path("here/topology.toml")
    assert settings.max_upload_bytes == 1000
    assert settings.redelivery_seconds == 2.0
    assert settings.send_traceparent
    monkeypatch.setenv("MES_STORAGE_SEND_TRACEPARENT", "off")
    assert not load_settings().send_traceparent


def test_every_fault_has_a_line_that_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MES_STORAGE_TOPOLOGY", raising=False)
    monkeypatch.setenv("MES_STORAGE_MAX_UPLOAD_BYTES", "-1")
    monkeypatch.setenv("MES_STORAGE_LOG_LEVEL", "loud")
    with pytest.raises(SettingsInvalid) as caught:
        load_settings()
    topology, upload, level = caught.value.faults
    assert topology.startswith("MES_STORAGE_TOPOLOGY is not set: it must be the path of the topology file")
    assert upload == "MES_STORAGE_MAX_UPLOAD_BYTES: input should be greater than 0"
    assert level.startswith("MES_STORAGE_LOG_LEVEL: input should be 'debug'")


WRONG = [
    ("MAX_JSON_BYTES", "100", "input should be greater than or equal to 1024"),
    ("MAX_CONNECTIONS", "0", "input should be greater than or equal to 1"),
    ("MAX_REQUESTS", "0", "input should be greater than 0"),
    ("HEADER_SECONDS", "0", "input should be greater than 0"),
    ("BODY_SECONDS", "-1", "input should be greater than 0"),
    ("ANSWER_SECONDS", "soon", "input should be a valid number"),
    ("IDLE_SECONDS", "1.5", "input should be a valid integer"),
    ("REQUEST_SECONDS", "inf", "input should be a finite number"),
    ("STATEMENT_SECONDS", "11", "a statement may not take longer than the request, 10 s"),
    ("QUEUE_SECONDS", "0", "input should be greater than 0"),
    ("TRUSTED_PROXIES", "*", "does not appear to be an IPv4 or IPv6 network"),
    ("TRUSTED_PROXIES", "10.0.0.0/8, gateway", "does not appear to be an IPv4 or IPv6 network"),
]


@pytest.mark.field
@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_a_setting_that_makes_no_sense(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv("MES_STORAGE_TOPOLOGY", "topology.toml")
    monkeypatch.setenv(f"MES_STORAGE_{name}", value)
    with pytest.raises(SettingsInvalid) as caught:
        load_settings()
    [fault] = caught.value.faults
    assert fault.startswith(f"MES_STORAGE_{name}: ")
    assert said in fault
