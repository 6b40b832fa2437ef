"""The model card of a run: what it is, how good it is under which protocol, how to use it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from kgc_seq2seq.config import read_yaml
from kgc_seq2seq.evaluation.ranks import number_text
from kgc_seq2seq.evaluation.results import read_result, surest_result
from kgc_seq2seq.graph.folder import read_about, read_graph
from kgc_seq2seq.hub import shared_name
from kgc_seq2seq.runs import Kind, read_fusion, read_generator, run_kind

_METRICS = ("mrr", "hits@1", "hits@3", "hits@10", "mr")
_WHAT: dict[Kind, str] = {
    "generator": "It writes the name of the missing entity; a trie over all names makes every "
                 "answer an entity of the graph.",
    "scorer": "It scores every entity at once.",
    "fusion": "A generator, which writes the name of the missing entity, and embedding scorers "
              "answer together; every answer is an entity of the graph.",
}
_SCORERS = "Embedding scorers answer together: they score every entity at once."


def model_card(run: Path, name: str, licence: str | None) -> str:
    """Markdown with the metadata that the hub reads.

    Args:
        run: The run folder, of any kind; its results on valid and test are shown, exact ones
            where there are any, else certified ones.
        name: What the model is called.
        licence: Of the weights, as the hub spells it; None leaves it open.

    Raises:
        InputError: It is no run, a result is missing or malformed, or the data set is.
    """
    kind = run_kind(run)
    # What a fusion reads, and where its data set lies.
    first = run / read_fusion(run).parts[0].run if kind == "fusion" else run
    writes = run_kind(first) == "generator"
    config = read_yaml(first / "config.yaml")
    paths = {split: run / "results" / f"{surest_result(run, split)}.json"
             for split in ("valid", "test")}
    # Valid may never have been ranked as a whole.
    results = {split: read_result(path) for split, path in paths.items()
               if split == "test" or path.is_file()}
    dataset = first / str(config["dataset"])
    graph, about = read_graph(dataset), read_about(dataset)
    protocol = results["test"]["protocol"]
    head, relation = (names[index] for names, index in zip(
        (graph.entity_names, graph.relation_names), graph.train[0, :2], strict=True))
    captioned = writes and read_generator(first).input.reads_captions
    pretrained = config["model"].get("pretrained")
    base = shared_name(pretrained) if pretrained else None
    data = ModelCardData(
        model_name=name, library_name="kgc-seq2seq", pipeline_tag="graph-ml", license=licence,
        base_model=None if not base or base.startswith("./") else base,
        tags=["knowledge-graph-completion", "link-prediction", *["t5"] * writes,
              *["multimodal"] * captioned],
        eval_results=[EvalResult(
            task_type="graph-ml", task_name="Link prediction",
            dataset_type=re.sub(r"[^\w.-]+", "-", graph.name).lower(), dataset_name=graph.name,
            dataset_split=split, metric_type=metric, metric_name=f"filtered {metric}, both "
            "directions", metric_value=round(_at_worst(metric, result["both"][metric]), 4))
            for split, result in results.items() for metric in _METRICS])
    sections = {
        f"# {name}": [
            f"Completes the knowledge graph {graph.name}, `(head, relation, ?)` and `(?, relation, "
            f"tail)`. {_WHAT[kind] if writes or kind == 'scorer' else _SCORERS}"],
        "## Use": [
            "```bash", f"kgc predict {quote(name)} --head {quote(head)} --relation "
            f"{quote(relation)} -k 5", "```", "",
            "```python", "from kgc_seq2seq.completer import Completer, Query", "",
            f"completer = Completer.from_pretrained({name!r})",
            f"for answer in completer.complete(Query({head!r}, {relation!r}), k=5):",
            "    print(answer.name, answer.probability, answer.known)", "```", "",
            "All weights are safetensors."
            + " The folder `model` alone is a T5 for transformers." * (kind == "generator")],
        "## Results": [*_result_table(results), "", " ".join(_how(protocol))],
        "## Data": [
            f"{graph.num_entities:,} entities, {graph.num_relations:,} relations; "
            + ", ".join(f"{len(graph.split(split)):,} {split}" for split in (
                "train", "valid", "test")) + " facts.", "",
            *(f"- {key}: {value}" for key, value in about.items() if value),
            *([] if "licence" in about else [
                "- licence: not stated. Look up whether the data may be passed on."]), "",
            f"A folder `{_exported(writes) if kind == 'fusion' else ''}dataset` holds its tables"
            + " and the captions that the model reads" * captioned + ", not the images."],
        "## Training": [_training(kind, config, protocol)],
        "## Limits": [
            "It ranks what is likely given the graph it was trained on, with that graph's gaps and "
            "biases. Its probabilities are relative to the graph's entities: an answer that is not "
            "among them gets none."],
    }
    text = "\n\n".join(f"{title}\n\n" + "\n".join(lines) for title, lines in sections.items())
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n", ignore_metadata_errors=False))


def _exported(writes: bool) -> str:
    """Where `export.export_run` puts the first part of a fusion."""
    return "parts/generator/" if writes else "parts/scorer-1/"


def _at_worst(metric: str, value: float | Mapping[str, float]) -> float:
    """The worse end of a bracket."""
    if isinstance(value, Mapping):
        return value["high" if metric == "mr" else "low"]
    return value


def _how(protocol: Mapping[str, Any]) -> Iterator[str]:
    """The protocol in sentences."""
    yield (f"Ranks are {protocol['ranks']} among all {protocol['candidates']:,} entities, filtered "
           f"by the facts of {', '.join(protocol['filtered_by'])}; ties have their "
           f"{protocol['ties']} rank.")
    if protocol["ranks"] == "certified":
        yield "The exact figures lie in the brackets; the metadata have their worse ends."
    if "best_step" in protocol:
        yield (f"The state with the best {protocol['selected_on']} was kept (step "
               f"{protocol['best_step']} of {protocol['steps']}).")
    if "seed" in protocol:
        yield f"One seed: {protocol['seed']}."
    yield "The files in `results` hold the whole protocol, and the metrics of every relation."


def _training(kind: Kind, config: Mapping[str, Any], protocol: Mapping[str, Any]) -> str:
    if kind == "fusion":
        labels = ", ".join(part["label"] for part in protocol["parts"])
        fitted = protocol["weights_fitted_on"]
        return (f"The parts ({labels}) were trained apart"
                + (f", and their weights fitted on {fitted}" if fitted else "")
                + ". `training.json` holds the weights, `parts` the models.")
    pretrained, rank = config["model"].get("pretrained"), config["model"].get(
        "lora", {}).get("rank")
    return (f"{protocol['parameters']:,} weights, "
            + (f"fine-tuned from `{shared_name(pretrained)}`" if pretrained
               else "trained from scratch")
            + (f" with LoRA of rank {rank}, merged" if rank else "")
            + f"; {_a_step(config['training'])} a step. `config.yaml` holds every "
            "setting and `metrics.jsonl` the course of the training.")


def _a_step(training: Mapping[str, Any]) -> str:
    if training.get("batch_tokens"):
        return f"at most {training['batch_tokens']:,} tokens"
    return f"{training['batch_size']} examples"


def _result_table(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield "| split | queries | " + " | ".join(_METRICS) + " | count |"
    yield "|---|---|" + "---|" * (len(_METRICS) + 1)
    for split, result in results.items():
        for side in ("both", "tail", "head"):
            numbers = " | ".join(number_text(result[side][metric]) for metric in _METRICS)
            yield f"| {split} | {side} | {numbers} | {result[side]['count']:,} |"
