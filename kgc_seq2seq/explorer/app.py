"""The page and its API, as a Gradio application."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import gradio as gr

from caption_cache.errors import InputError
from kgc_seq2seq.completer import Direction, Query
from kgc_seq2seq.explorer.explorer import MAX_ANSWERS, MAX_QUERIES, Asked, Explorer
from kgc_seq2seq.explorer.render import answers_html, reasons_html

SHOWN = 10
"""Answers, unless another number is asked for."""
WAITING = 32
"""More requests than these do not wait: they are refused."""
_MODEL = "model"  # what runs the model runs alone; looking names up need not wait for it
_KINDS = {
    "generator": "A model reads the question and what the graph and the images say of it, and "
                 "writes the name of the answer.",
    "scorer": "A model scores every entity from vectors.",
    "fusion": "A model that writes the name of the answer, and others that score every entity, "
              "answer together."}
P = ParamSpec("P")
T = TypeVar("T")


def build(explorer: Explorer) -> gr.Blocks:
    """The page over a run.

    Its functions for programs are ``/predict``, ``/entities``, ``/relations`` and ``/queries``.
    """
    with gr.Blocks(title=f"{explorer.graph.name}: explorer", analytics_enabled=False) as page:
        gr.HTML(_welcome(explorer))
        with gr.Tabs():
            with gr.Tab("Ask"):
                _ask_tab(explorer, page)
            with gr.Tab("Ask many"):
                _queries_tab(explorer)
        _programs(explorer)
    page.queue(max_size=WAITING, default_concurrency_limit=4)
    return page


def _ask_tab(explorer: Explorer, page: gr.Blocks) -> None:
    first = explorer.example(0)
    asked = gr.State(first)
    count = gr.State(0)
    with gr.Row(equal_height=True):
        entity = gr.Dropdown(
            [first.entity, *explorer.entities("")], value=first.entity, label="Entity",
            info="type to search", allow_custom_value=True, scale=3, min_width=220)
        relation = gr.Dropdown(explorer.relations, value=first.relation, label="Relation",
                               info="type to search", scale=3, min_width=220)
        direction = gr.Radio([("entity → ?", "tail"), ("? → entity", "head")], value="tail",
                             label="Asked for", info="which end is missing", scale=2,
                             min_width=220)
    with gr.Row():
        ask = gr.Button("Ask", variant="primary", min_width=120)
        another = gr.Button("A question of the test set", min_width=120)
        k = gr.Slider(1, MAX_ANSWERS, value=SHOWN, step=1, label="Answers", min_width=220)
    answers = gr.HTML()
    with gr.Column(visible=explorer.kind != "scorer"):
        why = gr.Radio([], label="Why this answer?", interactive=True)
        reasons = gr.HTML()

    def suggest(event: gr.KeyUpData) -> Any:
        return gr.Dropdown(choices=explorer.entities(event.input_value))

    def answer(entity: str | None, relation: str | None, direction: Direction, k: int) -> Any:
        found = explorer.ask(Query(entity or "", relation or "", direction), int(k))
        names = [answer.name for answer in found.answers]
        return found.query, _answers(explorer, found), gr.Radio(names, value=names[0])

    def explain(query: Query, answer: str | None) -> str:
        if answer is None or explorer.kind == "scorer":
            return ""
        return reasons_html(explorer.reasons(query, answer))

    def example(count: int) -> Any:
        query = explorer.example(count + 1)
        return (count + 1, gr.Dropdown([query.entity], value=query.entity), query.relation,
                query.direction)

    query = [entity, relation, direction, k]
    found = [asked, answers, why]
    entity.key_up(_sentences(suggest), None, entity, show_progress="hidden",
                  trigger_mode="always_last", api_visibility="private")
    another.click(_sentences(example), count, [count, entity, relation, direction],
                  show_progress="hidden", api_visibility="private"
                  ).then(_sentences(answer), query, found, concurrency_id=_MODEL,
                         concurrency_limit=1, api_visibility="private")
    gr.on([page.load, ask.click, entity.select, relation.select, direction.input, k.release],
          _sentences(answer), query, found, concurrency_id=_MODEL, concurrency_limit=1,
          trigger_mode="always_last", api_visibility="private")
    why.change(_sentences(explain), [asked, why], reasons, concurrency_id=_MODEL,
               concurrency_limit=1, trigger_mode="always_last", api_visibility="private")


def _queries_tab(explorer: Explorer) -> None:
    gr.HTML(f"""<section class="kgc"><p class="lead">A file with one query a line, at most
{MAX_QUERIES:,}; the answers come as the JSON document that <code>kgc predict --queries FILE
--json</code> prints.</p><pre>{escape(_lines(explorer))}</pre></section>""")
    with gr.Row():
        upload = gr.File(label="Queries (.jsonl)", file_types=[".jsonl", ".json", ".txt"],
                         type="binary")
        _refuse_links(upload)
        answers = gr.File(label="Answers", interactive=False)
    with gr.Row():
        k = gr.Slider(1, MAX_ANSWERS, value=SHOWN, step=1, label="Answers to each")
        ask = gr.Button("Answer the file", variant="primary")

    def queries(file: bytes | None, k: int = SHOWN) -> str:
        """Answer a file of queries, one JSON object a line; gives a JSON document."""
        if file is None:
            raise InputError("There is no file yet; choose one with a query a line.")
        try:
            text = file.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"The file is not UTF-8 ({error}); save it so.") from None
        data = explorer.ask_lines(text, int(k))
        # Gradio takes its own copy of what lies in the temporary folder, which `serve` empties.
        path = Path(tempfile.mkdtemp(dir=upload.GRADIO_CACHE)) / "answers.json"
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", "utf-8")
        return str(path)

    ask.click(_sentences(queries), [upload, k], answers, concurrency_id=_MODEL,
              concurrency_limit=1, api_name="queries")


def _programs(explorer: Explorer) -> None:
    def predict(entity: str, relation: str, direction: Literal["tail", "head"] = "tail",
                k: int = SHOWN, explain: bool = False) -> dict[str, Any]:
        """Answer one query, as 'kgc predict --json' does."""
        return explorer.ask_as_data(Query(entity, relation, direction), k, explain=explain)

    def entities(text: str = "") -> list[str]:
        """Names of entities that match a text, best first."""
        return explorer.entities(text)

    def relations() -> list[str]:
        """The names of all relations."""
        return explorer.relations

    gr.api(_sentences(predict), api_name="predict", concurrency_id=_MODEL, concurrency_limit=1)
    gr.api(_sentences(entities), api_name="entities")
    gr.api(_sentences(relations), api_name="relations")


def _sentences(act: Callable[P, T]) -> Callable[P, T]:
    """Let Gradio show an `InputError` as it is: as a sentence, not as a traceback."""
    @functools.wraps(act)
    def wrapped(*values: P.args, **named: P.kwargs) -> T:
        try:
            return act(*values, **named)
        except InputError as error:
            # Gradio shows the message as HTML.
            raise gr.Error(escape(str(error), quote=False), title="Not answered",
                           print_exception=False) from None
    return wrapped


def _refuse_links(upload: gr.File) -> None:
    """Take uploads only: Gradio would fetch a URL that a program names in their place."""
    take = upload.async_move_resource_to_block_cache

    async def take_uploaded(path: str | Path | None) -> str | None:
        if path is not None and "://" in str(path):
            raise gr.Error("A link is not fetched; upload the file.", print_exception=False)
        return await take(path)

    vars(upload)["async_move_resource_to_block_cache"] = take_uploaded


def _answers(explorer: Explorer, asked: Asked) -> str:
    place = explorer.completer.resolve_entity(asked.query.entity)
    return answers_html(asked, explorer.graph.entity_ids[place],
                        explorer.graph.entity_descriptions[place], explorer.pictures)


def _welcome(explorer: Explorer) -> str:
    graph = explorer.graph
    return f"""<section class="kgc"><h1>Ask {escape(graph.name)}</h1>
<p class="lead">Give one end of a fact and its relation; what stands at the other end?
{_KINDS[explorer.kind]} All {graph.num_entities:,} entities are candidates; their probabilities add
up to 100%.</p></section>"""


def _lines(explorer: Explorer) -> str:
    """Two queries as lines of a file."""
    graph = explorer.graph
    head, relation, tail = graph.train[0].tolist()
    known = {"relation": graph.relation_names[relation]}
    return "\n".join(json.dumps(entry, ensure_ascii=False) for entry in (
        {"head": graph.entity_names[head], **known}, {"tail": graph.entity_names[tail], **known}))
