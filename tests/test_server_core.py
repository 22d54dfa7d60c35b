"""What the server is made of, without HTTP: limits, keys, names, metrics, bodies, the command's arguments."""

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from clipref import BackendError, InputError, peers
from clipref.config import PUBLISHED
from clipref.server import command
from clipref.server.bodies import json_object
from clipref.server.keys import Keys, bearer
from clipref.server.limits import Held, Limits
from clipref.server.logs import Log
from clipref.server.metrics import FAMILIES, Metrics
from clipref.server.models import normal, spellings
from clipref.server.refusals import Refusal
from clipref.server.serving import request_id

SERVER = Path(command.__file__).parent


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(given)


def status(call: Any, *given: Any) -> int:
    with pytest.raises(Refusal) as caught:
        call(*given)
    return caught.value.status


def test_what_requests_hold_is_bounded_and_given_back() -> None:
    held = Held(Limits(held_requests=2, held_bytes=100, held_pixels=50), lambda: 7)
    with held.share() as first:
        first.take("bytes", 60)
        with held.share() as second:
            with pytest.raises(Refusal) as caught:
                second.take("bytes", 41)
            assert (caught.value.status, caught.value.retry_after) == (429, 7)
            assert status(second.take, "bytes", 101) == 413  # never fits, so trying again is of no use
            second.take("bytes", 40)
            second.take("pixels", 50)
            assert status(held.share) == 429
            second.give_back("pixels", 50)
            first.take("pixels", 50)
        assert held.amounts == {"requests": 1, "bytes": 60, "pixels": 50}
    assert not any(held.amounts.values())


def test_names_of_models_in_every_spelling() -> None:
    for model in PUBLISHED:
        short = model.removeprefix("clip/")
        assert {normal(name) for name in (model, short, f"{short}__openai", short.upper())} <= spellings(model)
    for given, model in (
        ("ViT-B/32", "clip/ViT-B-32"),
        ("ViT-L/14@336px", "clip/ViT-L-14-336px"),
        ("ViT-L-14-336__openai", "clip/ViT-L-14-336px"),
        ("openai/clip-vit-base-patch32", "hf:openai/clip-vit-base-patch32"),
        ("clip-vit-base-patch32", "hf:openai/clip-vit-base-patch32"),
        ("shapes-vit", "clipref/shapes-vit"),
    ):
        assert normal(given) in spellings(model)
    found = Counter(name for model in PUBLISHED for name in spellings(model))
    assert max(found.values()) == 1  # no name means two models


def test_keys_are_read_and_compared(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# first\n one \n\ntwo\n", encoding="utf-8")
    keys = Keys.from_file(tmp_path / "keys")
    for given in (("one",), (None, "two"), ("None", "", "null", "one"), ("one", "wrong")):
        keys.check(*given)
    wrong: list[tuple[Any, ...]] = [(), (None, "None"), ("wrong", "one"), ("on",), ("# first",), (5,)]
    for given in wrong:
        assert status(keys.check, *given) == 401
    Keys().check()
    assert bearer("Bearer x ") == "x" and bearer("Basic x") is None and bearer(None) is None
    (tmp_path / "keys").write_text("# none\n", encoding="utf-8")
    for path in (tmp_path / "keys", tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match="--api-key-file"):
            Keys.from_file(path)


def test_bodies_are_one_object_and_errors_repeat_nothing() -> None:
    assert json_object(b'{"text": "a", "n": 1.5}') == {"text": "a", "n": 1.5}
    for body in (b"", b"[1]", b'"secret"', b"\xffsecret", b'{"secret"', b'{"a": 1, "a": 2}', b'{"a": Infinity}',
                 b'{"a": 1' + b"0" * 99 + b"}", b"[" * 100_000):  # fmt: skip
        with pytest.raises(Refusal) as caught:
            json_object(body)
        assert caught.value.status == 400 and "secret" not in caught.value.message


def test_metrics_are_prometheus() -> None:
    metrics = Metrics()
    metrics.count("clipref_requests_total", 'a"\n\\', "200", amount=2)
    for seconds in (0.0005, 0.001, 0.3, 100.0):
        metrics.observe("clipref_stage_seconds", seconds, "decode")
    metrics.gauge("now", "Now.", ("x",), lambda: [(("y",), 1.5)])
    lines = metrics.text().splitlines()
    assert 'clipref_requests_total{route="a\\"\\n\\\\",status="200"} 2' in lines
    assert 'clipref_stage_seconds_bucket{stage="decode",le="0.001"} 2' in lines
    assert 'clipref_stage_seconds_bucket{stage="decode",le="0.5"} 3' in lines
    assert 'clipref_stage_seconds_bucket{stage="decode",le="+Inf"} 4' in lines
    assert 'clipref_stage_seconds_count{stage="decode"} 4' in lines
    (total,) = [line for line in lines if line.startswith("clipref_stage_seconds_sum")]
    assert float(total.split()[-1]) == pytest.approx(100.3015)
    assert 'now{x="y"} 1.5' in lines and "# TYPE now gauge" in lines
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} == {*FAMILIES, "now"}


def test_a_log_line_is_json_and_a_failure_tells_no_values() -> None:
    lines: list[str] = []
    log = Log(lines.append)
    log.event("request", id="x\n", nothing=None)
    try:
        raise ValueError("secret")
    except ValueError as error:
        log.failure("x", error)
    told = [json.loads(line) for line in lines]
    assert told[0]["id"] == "x\n" and "nothing" not in told[0] and "\n" not in lines[0]
    assert told[1]["error"] == "ValueError" and "test_server_core.py" in told[1]["where"] and "secret" not in lines[1]


def test_ids_of_requests_are_the_clients_if_they_are_sane() -> None:
    assert request_id("a-1.b:C_2") == "a-1.b:C_2"
    for given in (None, "", "a b", "a\n", "x" * 65, "ä"):
        assert request_id(given) != given and len(request_id(given)) == 16


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--port", "70000"), "--port is 70000"),
        (("--idle-unload", "0"), "--idle-unload is 0"),
        (("--max-pixels", "0"), "--max-pixels is 0"),
        (("--answer-seconds", "nan"), "--answer-seconds is nan"),
        (("--api-key-file", "/nowhere/keys"), "--api-key-file /nowhere/keys"),
    ],
)
def test_arguments_that_make_no_server(given: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        command.server_of(arguments(*given))


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setitem(sys.modules, "starlette", None)
    with pytest.raises(BackendError, match=r"clipref serve needs \w+: pip install 'clipref\[server\]'"):
        command.run(arguments())


def test_limits_are_all_options_and_all_told() -> None:
    assert set(command.OPTIONS) == set(Limits().as_json())
    assert command.limits_of(arguments("--items", "5", "--body-seconds", "1.5")) == Limits(items=5, body_seconds=1.5)


def test_the_pages_name_every_option_of_theirs() -> None:
    coming = (SERVER / "COMING.md").read_text(encoding="utf-8")
    for name in (*peers.OPTIONS, *peers.BACKENDS):
        assert f"`{name}=" in coming or f'"{name}"' in coming, name


def test_nothing_above_knows_the_server() -> None:
    files = [path for path in SERVER.parent.rglob("*.py") if SERVER not in path.parents]
    assert len(files) > 40
    for path in files:
        assert not re.search(r"(from|import)\s+\.*(clipref\.)?server", path.read_text(encoding="utf-8")), path


def test_the_core_needs_nothing_of_the_extra() -> None:
    import subprocess

    code = """import sys
sys.modules.update(dict.fromkeys(("starlette", "uvicorn", "multipart", "python_multipart")))
import clipref.server.serving, clipref.server.command, clipref.server.dialects.roboflow, clipref.server.dialects.own"""
    subprocess.run([sys.executable, "-c", code], check=True)
