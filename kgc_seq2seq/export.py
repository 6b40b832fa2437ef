"""Takes a run to another machine, or to the hub: its model with the data it cannot do without."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from huggingface_hub import HfApi

from caption_cache.captions import current_rows
from caption_cache.disk import cannot_write, replacing
from caption_cache.errors import InputError, first_line
from caption_cache.store import Store
from kgc_seq2seq.config import read_yaml, to_yaml
from kgc_seq2seq.evaluation.results import write_result
from kgc_seq2seq.graph.folder import refuse_taken
from kgc_seq2seq.graph.knowledge_graph import SPLITS
from kgc_seq2seq.hub import shared_name
from kgc_seq2seq.model_card import model_card
from kgc_seq2seq.runs import WEIGHTS, read_fusion, read_generator, run_kind

_PARTS = ("dataset", "model", "parts", "results", "tokenizer")
_OF_DATASET = ("entities.tsv", "relations.tsv", *(f"{split}.tsv" for split in SPLITS))


def export_run(
    run: Path, folder: Path, *, name: str | None = None, licence: str | None = None
) -> None:
    """Write what `Completer.from_pretrained` needs of a run into a folder that stands alone.

    That is the best model, of a fusion those of its parts, with configuration and results; of the
    data set the tables and the captions that are read, without images; and a model card,
    ``README.md``. Checkpoints stay behind.

    Args:
        run: A run folder of any kind.
        folder: A new one.
        name: What the card calls it, ``user/name`` on a hub; by default the name of ``folder``.
        licence: Of the weights, for the card, as the hub spells it, such as ``apache-2.0``.

    Raises:
        InputError: It is no run with results, its data set or a part has gone, or the folder
            cannot be written or is not empty.
    """
    card = model_card(run, name or folder.name, licence)
    refuse_taken(folder)
    try:
        with replacing(folder) as aside:
            _copy(run, aside)
            shutil.copytree(run / "results", aside / "results")
            if run_kind(aside) == "fusion":
                _point_at_parts(aside)
            (aside / "README.md").write_text(card, "utf-8")
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing; put it back, or train again.") from None
    except OSError as error:
        raise cannot_write(Path(error.filename or folder), error) from None


def _copy(run: Path, target: Path) -> None:
    """What answers of a run, without what was measured."""
    kind = run_kind(run)
    target.mkdir(parents=True)
    shutil.copyfile(run / "training.json", target / "training.json")
    if kind == "fusion":
        shutil.copyfile(run / WEIGHTS, target / WEIGHTS)
        fusion = read_fusion(run)
        generator = fusion.generator and replace(fusion.generator, run="parts/generator")
        scorers = tuple(replace(part, run=f"parts/scorer-{number}")
                        for number, part in enumerate(fusion.scorers, start=1))
        moved = replace(fusion, generator=generator, scorers=scorers)
        first, *others = zip(fusion.parts, moved.parts, strict=True)
        _copy(run / first[0].run, target / first[1].run)
        for old, new in others:  # it needs no more of them
            shutil.copytree(run / old.run / "model", target / new.run / "model")
        moved.save(target / "config.yaml")
        return
    config = read_yaml(run / "config.yaml")
    shutil.copytree(run / "model", target / "model")
    shutil.copyfile(run / "metrics.jsonl", target / "metrics.jsonl")
    if kind == "generator":
        shutil.copytree(run / "tokenizer", target / "tokenizer")
        for name in ("trie.safetensors", "relations.json"):
            shutil.copyfile(run / name, target / name)
    _copy_dataset(run / str(config["dataset"]), target / "dataset", captions=(
        kind == "generator" and read_generator(run).input.reads_captions))
    model = dict(config["model"])
    if model.get("pretrained"):
        model["pretrained"] = shared_name(model["pretrained"])
    (target / "config.yaml").write_text(
        to_yaml(config | {"dataset": "dataset", "model": model}), "utf-8")


def _point_at_parts(run: Path) -> None:
    """Say in what a fusion tells of itself where its parts are here, not where they were."""
    parts = [asdict(part) for part in read_fusion(run).parts]
    for path in (run / "training.json", *(run / "results").glob("*.json")):
        content = json.loads(path.read_text("utf-8"))
        about = content if path.name == "training.json" else content["protocol"]
        about["parts"] = parts
        write_result(path, content)


def _copy_dataset(dataset: Path, target: Path, *, captions: bool) -> None:
    target.mkdir()
    for file in _OF_DATASET:
        shutil.copyfile(dataset / file, target / file)
    if (dataset / "dataset.json").is_file():
        shutil.copyfile(dataset / "dataset.json", target / "dataset.json")
    if captions and Store(dataset).parts:
        # Without the images, all captions count: so only those that count now go along.
        rows = current_rows(dataset)
        rows = rows.filter(pc.equal(rows["status"], "ok"))
        # Nor do paths say in what order they are read: numbers in their place do.
        images = rows["images"].combine_chunks()
        numbers = pc.utf8_lpad(pc.list_parent_indices(images).cast(pa.string()), 9, "0")
        Store(target).add_table(rows.set_column(
            rows.column_names.index("images"), "images",
            pa.ListArray.from_arrays(images.offsets, numbers)))


def push_to_hub(
    run: Path, name: str, *, private: bool = False, licence: str | None = None
) -> str:
    """Export a run and upload it; `Completer.from_pretrained` then takes ``name``.

    Args:
        run: A run folder of any kind.
        name: On the hub: ``user/name``. It is made when it is not there.
        private: Whether only its owner may see it, when it is made.
        licence: As in `export_run`.

    Returns:
        The address of the upload.

    Raises:
        InputError: As `export_run`, or the hub refuses.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        export_run(run, folder, name=name, licence=licence)
        try:
            hub = HfApi()
            hub.create_repo(name, private=private, exist_ok=True)
            # Parts of an earlier upload would be read together with those of this one.
            done = hub.upload_folder(
                repo_id=name, folder_path=folder, delete_patterns=[f"{part}/*" for part in _PARTS],
                commit_message="Upload a run of kgc-seq2seq")
        except Exception as error:  # of the hub, of HTTP, of names
            raise InputError(f"{name} cannot be uploaded ({first_line(error)}); check the name, "
                             "the network and 'hf auth whoami'.") from None
    return str(done.commit_url)
