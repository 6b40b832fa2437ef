"""Configurations: one meaning in file, command line and code; mistakes named by their key."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from conftest import ROOT

from caption_cache.errors import InputError
from kgc_seq2seq import cli
from kgc_seq2seq.config import RunConfig, config_parser, parse_config
from kgc_seq2seq.train import main


def test_the_recipe_of_the_demo_is_the_default() -> None:
    """`kgc demo` takes the defaults; the file shows and repeats them."""
    assert RunConfig.load(ROOT / "configs" / "nations.yaml") == RunConfig(
        dataset="nations", out="runs/nations")


@pytest.mark.parametrize("name", ["kgt5", "kgt5-context", "mmkg-t5", "names-only"])
def test_the_baselines_differ_from_the_demo_in_what_they_read_alone(name: str) -> None:
    """Their files leave to the defaults what the demo's repeats."""
    demo = RunConfig.load(ROOT / "configs" / "nations.yaml")
    config = RunConfig.load(ROOT / "configs" / f"nations-{name}.yaml")
    assert config.input.setting == (demo.input.setting if name == "names-only" else name)
    assert config.input != demo.input
    assert replace(config, out=demo.out, input=demo.input) == demo


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    config = RunConfig(dataset="Ünïcode folder", out="x", seed=7)
    config = replace(config, input=replace(
        config.input, neighbours=9, caption_scopes=("pair", "relation")))
    config.save(tmp_path / "config.yaml")
    assert RunConfig.load(tmp_path / "config.yaml") == config


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("dataset: d\nout: o\nmodel:\n  d_model: 32\n  d_ff: 64\n")
    config, _ = parse_config(config_parser("p", "", RunConfig), [
        "--config", str(tmp_path / "c.yaml"), "--model.d_model", "48", "--out", "other"], RunConfig)
    assert (config.model.d_model, config.model.d_ff, config.out) == (48, 64, "other")


@pytest.mark.parametrize("file", [["--config", "{}"], ["--config={}"]], ids=" ".join)
def test_the_command_line_overrides_the_file_wherever_that_stands(
    tmp_path: Path, file: list[str]
) -> None:
    (tmp_path / "c.yaml").write_text("dataset: d\nout: o\nmodel:\n  d_model: 32\n  d_ff: 64\n")
    config, _ = parse_config(config_parser("p", "", RunConfig), [
        "--model.d_model", "48", "--out", "other",
        *(word.format(tmp_path / "c.yaml") for word in file)], RunConfig)
    assert (config.model.d_model, config.model.d_ff, config.out) == (48, 64, "other")
    (tmp_path / "c.yaml").write_text("dataset: d\nmodel:\n  d_modl: 32\n")
    with pytest.raises(InputError, match=r"did you mean 'model\.d_model'"):
        parse_config(config_parser("p", "", RunConfig), [
            "--out", "other", *(word.format(tmp_path / "c.yaml") for word in file)], RunConfig)


@pytest.mark.parametrize("text", ["1234e567", "12345678", "1e5", "nan", "true"])
def test_a_text_that_looks_like_a_number_stays_a_text(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the digits of a source of captions may."""
    config = RunConfig("é", "o", caption_source=text)
    config.save(tmp_path / "c.yaml")
    assert RunConfig.load(tmp_path / "c.yaml") == config
    assert cli.main(["config", str(tmp_path / "c.yaml")]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out, "utf-8")
    assert RunConfig.load(tmp_path / "printed.yaml") == config


def test_set_is_another_way_to_write_an_option() -> None:
    file = ["--config", str(ROOT / "configs" / "nations.yaml")]
    written = [[*file, "--set", "model.d_model=48", "--set=training.ema_decay=0.9"],
               [*file, "--model.d_model", "48", "--training.ema_decay=0.9"]]
    one, other = (parse_config(config_parser("p", "", RunConfig), words, RunConfig)[0]
                  for words in written)
    assert one == other
    assert (one.model.d_model, one.training.ema_decay) == (48, 0.9)


@pytest.mark.parametrize("words, sentence", [
    (["--set", "model.d_modl=3"], r"--set: there is no key 'model\.d_modl'; did you mean 'm"),
    (["--set", "training.steps"], r"--set needs KEY=VALUE, .* got 'training\.steps'"),
    (["--set=seed"], "--set needs KEY=VALUE"),
    (["--set"], "--set needs KEY=VALUE"),
    (["--set", "training.steps=many"], r"training\.steps"),
    (["--training.step", "3"], r"--training\.step: there is no key .* 'training\.steps'"),
    (["--se", "3"], "unrecognized arguments"),  # short for --seed, or for --set?
])
def test_a_setting_that_fits_no_key_is_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        parse_config(config_parser("p", "", RunConfig),
                     ["--dataset", "d", "--out", "o", *words], RunConfig)


def test_the_effective_configuration_is_shown_with_its_origins(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("dataset: d\nout: 'a: b'\nmodel:\n  d_model: 32\ntraining:\n  steps: 7\n")
    settings = ["--set", "training.steps=9", "--set", "model.lora.targets=[q, k]"]
    assert cli.main(["config", str(file), *settings]) == 0
    text = capsys.readouterr().out
    expected = RunConfig.load(file)
    expected = replace(expected, training=replace(expected.training, steps=9), model=replace(
        expected.model, lora=replace(expected.model.lora, targets=("q", "k"))))
    assert yaml.safe_load(text) == expected.as_dict()
    origin = {line.split(":")[0].strip(): line.rsplit("# ", 1)[1]
              for line in text.splitlines() if "# " in line}
    assert {key: origin[key] for key in ("dataset", "d_model", "d_ff", "steps", "targets")} == {
        "dataset": str(file), "d_model": str(file), "d_ff": "default", "steps": "command line",
        "targets": "command line"}
    assert cli.main(["config", str(file), *settings, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["values"] == expected.as_dict()
    assert answer["origins"]["model.lora.targets"] == "command line"


def test_the_configuration_of_a_scorer_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(ROOT / "configs" / "nations-rotate.yaml")
    assert cli.main(["config", file, "--set", "model.gamma=9"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["gamma"] == 9.0
    generator = str(ROOT / "configs" / "nations.yaml")
    assert cli.main(["config", generator, "--set", "model.gamma=9"]) == 2
    assert "there is no key 'model.gamma'" in capsys.readouterr().err


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_configuration_that_comes_along_is_read(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["config", str(file), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)

    def taken_over(written: dict[str, Any], values: dict[str, Any]) -> None:
        for key, value in written.items():
            if isinstance(value, dict):
                taken_over(value, values[key])
            else:
                assert values[key] == (".inf" if value == math.inf else value), key

    taken_over(yaml.safe_load(file.read_text()), answer["values"])
    assert str(file) in answer["origins"].values()


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")),
                         ids=lambda file: file.stem)
def test_every_configuration_for_accelerate_is_read(file: Path) -> None:
    config = load_config_from_file(str(file))
    assert config.num_processes >= 1
    assert (config.fsdp_config == {"fsdp_version": 2}) == (file.stem == "fsdp2")


@pytest.mark.parametrize("text, sentence", [
    ("dataset: d\nout: o\nmodel:\n  d_modl: 3\n", r"there is no key 'model\.d_modl'; did you mean "
                                                  r"'model\.d_model'\?"),
    ("dataset: d\nout: o\nzzz: 3\n", r"there is no key 'zzz'; the keys there are dataset, out"),
    ("dataset: d\nout: [\n", r"c\.yaml, line 3: not valid YAML"),
    ("- a\n", "holds no keys"),
    ("", "holds no keys"),
    ("dataset: d\n", "out"),
    ("dataset: d\nout: o\nmodel:\n  d_model: wide\n", r"model\.d_model"),
    ("dataset: d\nout: o\nmodel:\n  d_model: 50\n  num_heads: 4\n", r"d_model \(50\) is no multi"),
    ("dataset: d\nout: o\ntraining:\n  steps: 0\n", r"training\.steps is 0; give 1 or more"),
    ("dataset: d\nout: o\nmodel:\n  init: pretrained\n", r"model\.pretrained names a folder"),
    ("dataset: d\nout: o\noptimizer:\n  name: sgd\n", r"optimizer\.name"),
    ("dataset: d\nout: o\ntraining: {steps: 9}\ntraining: {batch_size: 9}\n",
     r"c\.yaml, line 4: not valid YAML \(the key 'training' stands there twice\)"),
    ("dataset: d\nout: o\ntraining:\n  # steps: 9\n", "nothing stands under 'training'"),
    ("dataset: d\nout: o\ntraining: {mixed_precision: no}\n", "put it into quotes, such as 'no'"),
    ("dataset: d\nout: o\ntraining: {compile: off}\n", r"'training\.compile' for true or false"),
])
def test_mistakes_are_named_by_their_key(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        RunConfig.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml cannot be read \(No such file"):
        RunConfig.load(tmp_path / "none.yaml")


@pytest.mark.parametrize("arguments", [
    ["--dataset", "d"], ["--dataset", "d", "--out", "o", "--unknown", "3"],
    ["--config"], ["--dataset", "{here}/none", "--out", "{here}/o"],
])
def test_training_refuses_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main([word.format(here=tmp_path) for word in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("kgc_seq2seq.train: ")
    assert len(printed.err.strip().split("\n")) == 1


def test_a_run_folder_that_cannot_be_made_is_refused(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--dataset", str(tiny), "--out", str(tmp_path / "file" / "run")]) == 2
