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
