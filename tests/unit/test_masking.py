"""What is masked: secrets that are known, what looks like one, and what was written into statements."""

import pytest

from ops.problems.masking import (
    MASK,
    Masker,
    masked_log_line,
    masked_settings,
    passwords_in,
    without_literals,
)


@pytest.mark.parametrize(
    ("statement", "seen"),
    [
        ("SELECT * FROM t1 WHERE email = 'ada@example.org' AND n = 42", "WHERE email = ? AND n = ?"),
        ("SELECT 'it''s secret', 'a\\', 'secret'", "SELECT ?, ?, ?"),
        (r"SELECT E'it\'s secret', $1", "SELECT ?, $1"),
        ("SELECT $tag$ secret $tag$, $$secret", "SELECT ?, ?"),
        ("SELECT 1 /* secret */ -- secret", "SELECT ? ? ?"),
        ("INSERT INTO orders VALUES ('the text was cut, sec", "VALUES (?"),
    ],
)
def test_statements_lose_their_values(statement: str, seen: str) -> None:
    masked = without_literals(statement)
    assert seen in masked
    assert "sec" not in masked
    assert "ada" not in masked


@pytest.mark.parametrize(
    "text",
    [
        "redis://mes:s3cr3t/w@rd@10.0.0.1:6379/0",
        "host=db password=s3cr3t/w@rd user=mes",
        "host=db password = 's3cr3t/w@rd' user=mes",
        '{"password": "s3cr3t/w@rd"}',
        "the value s3cr3t/w@rd alone",
    ],
)
def test_secrets_are_masked_wherever_they_stand(text: str) -> None:
    masked = Masker(["s3cr3t/w@rd"])(text)
    assert "s3cr3t" not in masked
    assert MASK in masked


def test_what_looks_like_a_secret_is_masked_though_it_is_not_known() -> None:
    mask = Masker([])
    assert mask("postgresql://mes:unknown@db/mes") == f"postgresql://mes:{MASK}@db/mes"
    assert mask("password=unknown x") == f"password={MASK} x"
    for text in (
        "PGPASSWORD=unknown",
        "db_password: unknown",
        'api_key": "unknown"',
        '{\\"password\\": \\"unknown\\"}',
        '"password": "a\\"unknown"',
        "Authorization: Bearer unknown",
        "MES_STORAGE_STREAM_KEY=unknown",
    ):
        assert "unknown" not in mask(text), text
    assert mask("model_key=models/1.stl") == "model_key=models/1.stl"
    assert mask("postgresql://mes@db/mes, at 10:30") == "postgresql://mes@db/mes, at 10:30"


def test_lines_of_a_servers_log() -> None:
    line = "2026-12-02 STATEMENT:  INSERT INTO t VALUES ('ada@example.org')\n"
    assert masked_log_line(line) == "2026-12-02 STATEMENT: INSERT INTO t VALUES (?)\n"
    assert "ada" not in masked_log_line("DETAIL:  Key (email)=(ada@example.org) already exists.\n")
    assert masked_log_line("\tWHERE email = 'ada@example.org'\n") == "\tWHERE email = ?\n"
    assert masked_log_line("2026-12-02 LOG:  ready at port 5432\n") == "2026-12-02 LOG:  ready at port 5432\n"


def test_settings_and_passfiles() -> None:
    settings = {"primary_conninfo": "password=x", "work_mem": "4MB", "MES_STORAGE_TOKEN_KEYS": "platform=x"}
    assert masked_settings(settings) == {
        "MES_STORAGE_TOKEN_KEYS": MASK,
        "primary_conninfo": MASK,
        "work_mem": "4MB",
    }
    assert list(passwords_in("# note\n*:*:*:mes:a\\:b\\\\c\nhost\\:1:5:*:crm:plain\n")) == ["a:b\\c", "plain"]
