"""The configuration of a run: typed, read from YAML and the command line, checked once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import jsonargparse
import yaml

from caption_cache.errors import InputError
from kgc_seq2seq.text.input_config import InputConfig
from kgc_seq2seq.text.tokenizer import TokenizerConfig
from kgc_seq2seq.training.loop import LoopConfig, TrainingConfig
from kgc_seq2seq.training.model import ModelConfig
from kgc_seq2seq.training.optimizer import OptimizerConfig


@dataclass(frozen=True)
class AnyRunConfig:
    """What a run is determined by, whatever it trains."""

    dataset: str
    """Folder of the data set, or ``nations`` for the graph that comes with this package."""
    out: str
    """Folder of the run; a stopped run goes on there."""
    seed: int = 0
    """Of everything that is random: weights, batches, dropout, what a model reads."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimiser."""
    training: LoopConfig = field(default_factory=LoopConfig)
    """The training loop."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; give 0 or more.")

    def as_dict(self) -> dict[str, Any]:
        """As nested JSON values, as a checkpoint or a file gives them back."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def save(self, path: Path) -> None:
        """Write it as YAML, in the order of the fields."""
        path.write_text(to_yaml(self.as_dict()), "utf-8")


@dataclass(frozen=True)
class RunConfig(AnyRunConfig):
    """Everything that determines a run of the generator."""

    caption_source: str | None = None
    """Whose captions are read, where the cache holds several: a captioner, a model, or the digits
    in brackets that ``caption-cache stats`` prints."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer."""
    input: InputConfig = field(default_factory=InputConfig)
    """What the model reads."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """The training loop."""

    @classmethod
    def load(cls, path: Path) -> RunConfig:
        """Read a YAML file.

        Raises:
            InputError: The file is missing or malformed, or a key or a value is not allowed.
        """
        return parse_config(config_parser("kgc", "", cls), ["--config", str(path)], cls)[0]


Config = TypeVar("Config", bound=AnyRunConfig)


def config_parser(
    program: str, description: str, kind: type[AnyRunConfig]
) -> jsonargparse.ArgumentParser:
    """A parser of ``--config FILE`` and of one option for every key, which overrides the file.

    See `parse_config`. ``--KEY VALUE``, ``--KEY=VALUE`` and ``--set KEY=VALUE`` mean the same.
    """
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(prog=program, description=description,
                                         exit_on_error=False, allow_abbrev=False,
                                         print_config=None)  # 'kgc config' prints what can be read
    parser.add_argument("--config", action="config", metavar="FILE",
                        help="a YAML file with the keys below, nested at the dots")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append",
                        help="the same as --KEY=VALUE; may be repeated")
    parser.add_class_arguments(kind)
    return parser


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """A command line with ``--KEY=VALUE`` in the place of each ``--set KEY=VALUE``.

    Raises:
        InputError: What follows ``--set`` is no setting.
    """
    words: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--set" or word.startswith("--set="):
            setting = next(rest, "") if word == "--set" else word.removeprefix("--set=")
            if not setting.partition("=")[0].strip() or "=" not in setting:
                raise InputError(f"--set needs KEY=VALUE, such as training.steps=3000, and got "
                                 f"{setting!r}.")
            word = f"--{setting}"
        words.append(word)
    return words


def _files_first(words: Sequence[str]) -> list[str]:
    """A command line whose files stand before its options: what is parsed last counts."""
    files: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--config":
            files += [word, *islice(rest, 1)]
        else:
            (files if word.startswith("--config=") else others).append(word)
    return files + others


def parse_config(
    parser: jsonargparse.ArgumentParser, arguments: Sequence[str], kind: type[Config]
) -> tuple[Config, jsonargparse.Namespace]:
    """Parse a command line of `config_parser`, to which options may have been added.

    Args:
        parser: The parser.
        arguments: The words after the program's name.
        kind: The class that the parser was made for.

    Returns:
        The configuration, and everything that was parsed.

    Raises:
        InputError: A file, a key or a value is not allowed.
    """
    for before, word in pairwise(["", *arguments]):
        option, _, value = word.partition("=")
        if before == "--config" or word.startswith("--config="):
            path = word if before == "--config" else value
            _check_keys(path, read_yaml(Path(path)), kind, "")
        elif before == "--set" or (option.startswith("--") and "." in option):
            nested: Any = ...
            for key in reversed(option.removeprefix("--").split(".")):
                nested = {key: nested}
            _check_keys("--set" if before == "--set" else option, nested, kind, "")
    try:
        options = parser.parse_args(_files_first(spelled_out(arguments)))
        made = parser.instantiate(options)
        return kind(**{entry.name: made[entry.name] for entry in fields(kind)}), options
    except jsonargparse.ArgumentError as error:
        what = " ".join(str(error).split())
        raise InputError(f"{what.rstrip('.')}; see '{parser.prog} --help'.") from None


class Dumper(yaml.SafeDumper):
    """Quotes what YAML takes for a text, and jsonargparse for a number, such as ``1234e567``."""


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
    except ValueError:
        return dumper.represent_str(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


Dumper.add_representer(str, _represent)


def to_yaml(values: Mapping[str, Any]) -> str:
    """A configuration as YAML, in the order of its keys, as `RunConfig.load` reads it again."""
    text: str = yaml.dump(values, Dumper=Dumper, sort_keys=False, allow_unicode=True)
    return text


class _Loader(yaml.SafeLoader):
    """Takes no key twice, of which the last would count in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands there twice",
                                               problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a configuration file.

    Raises:
        InputError: It cannot be read, is no YAML, or holds no keys.
    """
    try:
        content = yaml.load(path.read_text("utf-8"), _Loader)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a YAML file with the "
                         "configuration of a run.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or "it is not UTF-8"
        raise InputError(f"{path}{where}: not valid YAML ({why}); mend it there.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no keys; write at least 'dataset: …' and 'out: …'.")
    return content


def _check_keys(where: str, content: Mapping[str, Any], kind: type, prefix: str) -> None:
    known = get_type_hints(kind)
    for key, value in content.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise InputError(f"{where}: there is no key '{prefix}{key}'"
                             + (f"; did you mean '{prefix}{near[0]}'?" if near else
                                f"; the keys there are {', '.join(known)}."))
        if is_dataclass(known[key]) and isinstance(value, dict):
            _check_keys(where, value, known[key], f"{prefix}{key}.")
        elif is_dataclass(known[key]) and value is None:
            raise InputError(f"{where}: nothing stands under '{prefix}{key}'; write keys there, or "
                             "delete the line.")
        elif isinstance(value, bool) and _takes_text(known[key]):
            raise InputError(f"{where}: YAML takes the value of '{prefix}{key}' for true or false; "
                             f"put it into quotes, such as '{'yes' if value else 'no'}'.")


def _takes_text(kind: Any) -> bool:
    return kind is not bool and (kind is str or get_origin(kind) is Literal
                                 or any(map(_takes_text, get_args(kind))))
