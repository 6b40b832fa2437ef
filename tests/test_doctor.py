"""``kgc doctor``: what is missing is named with its mend."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version

import pytest

from kgc_seq2seq import cli, doctor


def test_a_machine_that_runs_the_tests_has_what_is_needed(
    capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in found["checks"]}
    for package in ("torch", "transformers", "accelerate", "pyarrow"):
        assert checks[package] == {"name": package, "state": "ok", "found": version(package),
                                   "mend": ""}
    assert {"python", "plugins", "cores", "memory", "malloc", "disk"} <= checks.keys()
    assert "distmult" in checks["plugins"]["found"]
    assert "palette" in checks["plugins"]["found"]
    assert found["packages"]["kgc-seq2seq"] == version("kgc-seq2seq")
    assert found["counts"]["missing"] == 0
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("All that is needed is here.\n")


def test_what_is_missing_or_too_old_is_named_with_its_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def installed(package: str) -> str:
        if package in ("sentencepiece", "pykeen"):
            raise PackageNotFoundError(package)
        return "0.1" if package == "accelerate" else version(package)

    monkeypatch.setattr(doctor, "version", installed)
    checks = {check.name: check for check in doctor.examine()}
    assert checks["sentencepiece"].state == "missing"
    assert "spiece.model" in checks["sentencepiece"].mend
    assert checks["accelerate"].state == "missing"
    assert checks["accelerate"].found.startswith("0.1 is not >=")
    assert checks["accelerate"].mend.startswith("python -m pip install 'accelerate>=")
    assert checks["extra bench"].state == "note"
    assert checks["extra bench"].mend == "python -m pip install 'kgc-seq2seq[bench]'"
    assert cli.main(["doctor"]) == 1
    assert "! sentencepiece" in capsys.readouterr().out


@pytest.mark.parametrize("words, state", [
    ({"avx2", "avx512f"}, "note"), ({"avx512f", "amx_bf16"}, "ok"), (set(), None)])
def test_a_cpu_that_imitates_bf16_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, words: set[str], state: str | None
) -> None:
    monkeypatch.setattr(doctor, "_cpu_words", lambda: words)
    [found] = [check.state for check in doctor.examine() if check.name == "bf16"] or [None]
    assert found == state


def test_the_compiler_that_torch_would_call_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "there is no no-such-compiler" in doctor._compiler().found
    monkeypatch.setenv("CXX", "sh")
    assert doctor._compiler().state == "ok"


def test_the_settings_of_malloc_are_asked_for_until_they_are_there(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_is_glibc", lambda: True)
    for name in doctor.MALLOC:
        monkeypatch.delenv(name, raising=False)
    check = doctor._malloc()
    assert check.state == "note"
    for words in check.mend.removeprefix("export ").split():
        name, value = words.split("=")
        monkeypatch.setenv(name, value)
    assert doctor._malloc().state == "ok"
    monkeypatch.setattr(doctor, "_is_glibc", lambda: False)
    monkeypatch.delenv("MALLOC_TOP_PAD_")
    assert doctor._malloc().state == "ok"
