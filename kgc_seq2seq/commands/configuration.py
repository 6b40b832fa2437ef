"""``kgc config``: the effective configuration of a run, and where each value comes from."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from caption_cache.command_line import Answer, Parser


def add_config(parser: Parser) -> None:
    """Add ``kgc config`` to the commands of ``parser``."""
    config = parser.add_command("config", _config, (
        "print the configuration that training would take from a file, and where each value is "
        "from"))
    config.add_argument("file", type=Path, metavar="FILE", help=(
        "the YAML file of a generator's or a scorer's run, such as config.yaml of a run folder"))
    config.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=(
        "overrides the file, as in training; may be repeated"))


def _config(options: Namespace) -> Answer:
    from kgc_seq2seq.config import RunConfig, config_parser, parse_config, read_yaml
    from kgc_seq2seq.train_scorer import config_class, scorer_name

    words = ["--config", str(options.file)]
    for setting in options.set:
        words += ["--set", setting]
    scorer = scorer_name(words)
    kind = RunConfig if scorer is None else config_class(scorer)
    values = parse_config(config_parser("kgc config", "", kind), words, kind)[0].as_dict()
    origins = {key: "default" for key, _ in _leaves(values)}
    origins |= {key: str(options.file) for key, _ in _leaves(read_yaml(options.file))
                if key in origins}
    origins |= {setting.partition("=")[0]: "command line" for setting in options.set}
    lines = list(_annotated(values, origins, ""))
    width = max(len(line) for line, _ in lines)
    return Answer({"values": _as_json(values), "origins": origins}, "\n".join(
        f"{line:{width}}  # {origin}" if origin else line for line, origin in lines))


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity; as a string, it is spelt as in YAML."""
    return {key: _as_json(value) if isinstance(value, dict) else
            ".inf" if value == math.inf else value for key, value in values.items()}


def _annotated(
    values: Mapping[str, Any], origins: Mapping[str, str], prefix: str
) -> Iterator[tuple[str, str]]:
    """Lines of YAML, each with the origin of its value; none where it opens a group."""
    import yaml

    from kgc_seq2seq.config import Dumper

    indent = "  " * prefix.count(".")
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:", ""
            yield from _annotated(value, origins, f"{prefix}{key}.")
        else:
            text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, allow_unicode=True,
                             width=2**31)
            yield (f"{indent}{key}: " + text.removesuffix("...\n").strip(),
                   origins.get(prefix + key, "default"))
