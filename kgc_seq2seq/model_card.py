"""The model card of a run: what it is, how good it is under which protocol, how to use it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from kgc_seq2seq.config import RunConfig
from kgc_seq2seq.evaluation.results import read_result
from kgc_seq2seq.graph.folder import read_about, read_graph

_METRICS = ("mrr", "hits@1", "hits@3", "hits@10", "mr")


def model_card(
    run: Path, dataset: Path, config: RunConfig, name: str, licence: str | None
) -> str:
    """Markdown with the metadata that the hub reads.

    Args:
        run: The run folder; its ``results/valid.json`` and ``results/test.json`` are shown.
        dataset: Its data set.
        config: Its configuration.
        name: What the model is called.
        licence: Of the weights, as the hub spells it; None leaves it open.

    Raises:
        InputError: A result is missing or malformed, or the data set is.
    """
    results = {split: read_result(run / "results" / f"{split}.json")
               for split in ("valid", "test")}
    graph, about = read_graph(dataset), read_about(dataset)
    protocol = results["test"]["protocol"]
    head, relation = (names[index] for names, index in zip(
        (graph.entity_names, graph.relation_names), graph.train[0, :2], strict=True))
    data = ModelCardData(
        model_name=name, library_name="kgc-seq2seq", pipeline_tag="graph-ml", license=licence,
        base_model=config.model.pretrained if _is_hub_name(config.model.pretrained) else None,
        tags=["knowledge-graph-completion", "link-prediction", "t5",
              *["multimodal"] * bool(protocol.get("captions"))],
        eval_results=[EvalResult(
            task_type="graph-ml", task_name="Link prediction",
            dataset_type=re.sub(r"[^\w.-]+", "-", graph.name).lower(), dataset_name=graph.name,
            dataset_split=split, metric_type=metric, metric_name=f"filtered {metric}, both "
            "directions", metric_value=round(result["both"][metric], 4))
            for split, result in results.items() for metric in _METRICS])
    sections = {
        f"# {name}": [
            "Completes the knowledge graph "
            f"{graph.name}: for `(head, relation, ?)` and `(?, relation, tail)` it writes the name "
            "of the missing entity. A trie over all names makes every answer an entity of the "
            "graph and every rank exact."],
        "## Use": [
            "```bash", f"kgc predict {quote(name)} --head {quote(head)} --relation "
            f"{quote(relation)} -k 5", "```", "",
            "```python", "from kgc_seq2seq.completer import Completer, Query", "",
            f"completer = Completer.from_pretrained({name!r})",
            f"for answer in completer.complete(Query({head!r}, {relation!r}), k=5):",
            "    print(answer.name, answer.probability, answer.known)", "```", "",
            "The folder `model` alone is a T5 for transformers. All weights are safetensors."],
        "## Results": [
            *_result_table(results), "",
            f"Ranks are {protocol['ranks']} among all {protocol['candidates']:,} entities, "
            f"filtered by the facts of {', '.join(protocol['filtered_by'])}; ties have their "
            f"{protocol['ties']} rank. The state with the best "
            f"{protocol.get('selected_on', 'filtered MRR on valid')} was kept (step "
            f"{protocol.get('best_step')} of {protocol.get('steps')}). One seed: "
            f"{protocol.get('seed')}. The files in `results` hold the whole protocol, and the "
            "metrics of every relation."],
        "## Data": [
            f"{graph.num_entities:,} entities, {graph.num_relations:,} relations; "
            + ", ".join(f"{len(graph.split(split)):,} {split}" for split in (
                "train", "valid", "test")) + " facts.", "",
            *(f"- {key}: {value}" for key, value in about.items()),
            *([] if "licence" in about else [
                "- licence: not stated. Look up whether the data may be passed on."]), "",
            "The folder `dataset` holds its tables and the captions of its images, which the "
            "model reads; not the images."],
        "## Training": [
            f"{protocol.get('parameters', 0):,} weights, "
            + (f"fine-tuned from `{config.model.pretrained}`" if config.model.pretrained
               else "trained from scratch")
            + (f" with LoRA of rank {config.model.lora.rank}, merged" if config.model.lora.rank
               else "")
            + f"; {config.training.batch_size} examples a step. `config.yaml` holds every setting "
            "and `metrics.jsonl` the course of the training."],
        "## Limits": [
            "It ranks what is likely given the graph it was trained on, with that graph's gaps and "
            "biases. Its probabilities are relative to the graph's entities: an answer that is not "
            "among them gets none."],
    }
    text = "\n\n".join(f"{title}\n\n" + "\n".join(lines) for title, lines in sections.items())
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n", ignore_metadata_errors=False))


def _is_hub_name(source: str | None) -> bool:
    return source is not None and not Path(source).exists() and source.count("/") <= 1


def _result_table(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    yield "| split | queries | " + " | ".join(_METRICS) + " | count |"
    yield "|---|---|" + "---|" * (len(_METRICS) + 1)
    for split, result in results.items():
        for side in ("both", "tail", "head"):
            numbers = " | ".join(f"{result[side][metric]:.4f}" for metric in _METRICS)
            yield f"| {split} | {side} | {numbers} | {result[side]['count']:,} |"
