"""The page and its API, as a Gradio application."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import gradio as gr
from gradio.events import api

from caption_cache.errors import InputError
from kgc_seq2seq.completer import Direction, Query
from kgc_seq2seq.explorer.explorer import (
    MAX_ANSWERS,
    MAX_DESCRIPTION,
    MAX_QUERIES,
    MAX_TEXT,
    Asked,
    Explorer,
)
from kgc_seq2seq.explorer.render import answers_html, reasons_html
from kgc_seq2seq.newcomers import Newcomer

SHOWN = 10
"""Answers, unless another number is asked for."""
WAITING = 32
"""More requests than these do not wait: they are refused."""
_MODEL = "model"  # what runs the model runs alone; looking names up need not wait for it
_WHAT = {
    (True, False): "A model reads the question and what the graph and the images say of it, and "
                   "writes the name of the answer.",
    (False, True): "Every entity is scored from vectors.",
    (True, True): "A model that writes the name of the answer, and others that score every entity, "
                  "answer together."}
"""By whether a generator answers, and whether scorers do."""
_SUGGEST = """() => document.addEventListener("focusin", event => {
    if (event.target.closest("#entity")) event.target.setAttribute("list", "entity-names");
})"""
"""The browser's own list of suggestions, which Gradio's field for texts has no setting for."""
_TELL_CLICKS = """element.addEventListener("click", event => {
    const button = event.target.closest("button[data-answer]");
    if (!button) return;
    document.getElementById("reasons").scrollIntoView();
    trigger("click", {answer: button.dataset.answer});
})"""
"""Of an answer: whose reasons are asked for."""
P = ParamSpec("P")
T = TypeVar("T")


def build(explorer: Explorer) -> gr.Blocks:
    """The page over a run.

    Its functions for programs are ``/predict``, ``/entities``, ``/relations`` and ``/queries``.
    """
    page = gr.Blocks(title=f"{explorer.graph.name}: explorer", analytics_enabled=False)
    with page:
        gr.HTML(_welcome(explorer))
        with gr.Tabs():
            with gr.Tab("Ask"):
                _ask_tab(explorer, page)
            if explorer.completer.writes:
                with gr.Tab("Something new"):
                    _new_tab(explorer)
            with gr.Tab("Many"):
                _queries_tab(explorer)
        _programs(explorer)
    page.queue(max_size=WAITING, default_concurrency_limit=4)
    return page


def _ask_tab(explorer: Explorer, page: gr.Blocks) -> None:
    first = explorer.example(0)
    shown = gr.State()
    count = gr.State(0)
    with gr.Row():
        entity = gr.Textbox(first.entity, label="Entity", info="type for suggestions", max_lines=1,
                            max_length=MAX_TEXT, elem_id="entity", scale=3, min_width=220)
        relation = gr.Dropdown(explorer.relations, value=first.relation, label="Relation",
                               info="type to search", scale=3, min_width=220)
        direction = gr.Radio([("entity → ?", "tail"), ("? → entity", "head")],
                             value=first.direction, label="Asked for",
                             info="which end is missing", scale=3, min_width=260)
    with gr.Row():
        ask = gr.Button("Ask", variant="primary", min_width=120)
        another = gr.Button("Try a test question", min_width=120)
        k = gr.Slider(1, MAX_ANSWERS, value=SHOWN, step=1, label="Answers", min_width=220)
    answers = gr.HTML(js_on_load=_TELL_CLICKS)
    reasons = gr.HTML(elem_id="reasons", visible=explorer.completer.writes)
    names = gr.HTML(_options(explorer.entities("")), visible="hidden")

    def suggest(text: str) -> str:
        return _options(explorer.entities(text))

    def answer(entity: str, relation: str | None, direction: Direction, k: int) -> Any:
        asked = explorer.ask(Query(entity.strip(), relation or "", direction), int(k))
        return asked, _answers(explorer, asked), ""  # the reasons of the last question go

    def explain_first(asked: Asked) -> str:
        return _reasons(explorer, asked.query, asked.answers[0].name)

    def explain(asked: Asked, event: gr.EventData) -> str:
        return _reasons(explorer, asked.query, str(event.answer))

    def example(count: int) -> Any:
        query = explorer.example(count + 1)
        return count + 1, query.name, query.relation, query.direction

    query = [entity, relation, direction, k]
    private: dict[str, Any] = {"api_visibility": "private"}
    model = private | {"concurrency_id": _MODEL, "concurrency_limit": 1,
                       "trigger_mode": "always_last"}
    page.load(None, js=_SUGGEST)
    entity.input(_sentences(suggest), entity, names, show_progress="hidden",
                 trigger_mode="always_last", **private)
    tried = another.click(_sentences(example), count, [count, entity, relation, direction],
                          show_progress="hidden", **private).then(
        _sentences(answer), query, [shown, answers, reasons], **model)
    asked = gr.on(
        [page.load, ask.click, entity.submit, relation.input, direction.input, k.release],
        _sentences(answer), query, [shown, answers, reasons], **model)
    for event in (tried, asked):
        event.success(_sentences(explain_first), shown, reasons, **model)
        event.failure(_nothing, None, [answers, reasons], **private)
    answers.click(_sentences(explain), shown, reasons, **model)


def _new_tab(explorer: Explorer) -> None:
    gr.HTML("""<section class="kgc"><p class="lead">An entity that the graph lacks: say what it is
called and what is known of it. It is forgotten after the answer; nothing is trained anew.</p>
</section>""")
    fact = explorer.example(1)
    with gr.Row():
        name = gr.Textbox(label="Name", info="no entity of the graph may be called so",
                          max_lines=1, max_length=MAX_TEXT, elem_id="new-name", min_width=220)
        relation = gr.Dropdown(explorer.relations, value=fact.relation, label="Relation",
                               info="what is asked", min_width=220)
        direction = gr.Radio([("it → ?", "tail"), ("? → it", "head")], value="tail",
                             label="Asked for", info="which end is missing", min_width=220)
    with gr.Row():
        facts = gr.Textbox(label="Facts", lines=4, max_length=MAX_DESCRIPTION, min_width=260,
                           info="a line each: relation | other end", elem_id="new-facts",
                           placeholder=_fact_line(explorer))
        caption = gr.Textbox(label="Caption", lines=4, max_length=MAX_DESCRIPTION, min_width=260,
                             info="what its image shows, or give the image",
                             elem_id="new-caption")
        image = gr.File(label="Image", file_types=["image"], type="binary", height=160,
                        elem_id="new-image")
        _refuse_links(image)
    ask = gr.Button("Ask", variant="primary", elem_id="new-ask")
    answers, reasons = gr.HTML(elem_id="new-answers"), gr.HTML(elem_id="new-reasons")

    def tell(name: str, relation: str | None, direction: Direction, facts: str, caption: str,
             image: bytes | None) -> tuple[str, str]:
        told = Newcomer(name.strip(), tuple(map(_fact, filter(None, facts.splitlines()))),
                        caption=caption.strip() or None)
        if image is not None and told.caption is not None:
            raise InputError("There is a caption and an image; give one of them.")
        asked, why = explorer.tell(told, image, relation or "", direction, SHOWN)
        return (answers_html(asked, told.name, "", explorer.pictures, why=False),
                reasons_html(why))

    gr.on([ask.click, name.submit], _sentences(tell),
          [name, relation, direction, facts, caption, image], [answers, reasons],
          api_visibility="private", concurrency_id=_MODEL, concurrency_limit=1).failure(
        _nothing, None, [answers, reasons], api_visibility="private")


def _fact_line(explorer: Explorer) -> str:
    """A fact as a person may tell one."""
    graph = explorer.graph
    _, relation, tail = graph.train[0].tolist()
    return f"{graph.relation_names[relation]} | {graph.entity_names[tail]}"


def _fact(line: str) -> tuple[str, str]:
    relation, bar, other = (part.strip() for part in line.partition("|"))
    if not (relation and bar and other):
        raise InputError(f"The fact {line.strip()!r} is not 'relation | other end'; mend it.")
    return relation, other


def _queries_tab(explorer: Explorer) -> None:
    gr.HTML(f"""<section class="kgc"><p class="lead">A file with one query a line, at most
{MAX_QUERIES:,}; the answers come as the JSON document that <code>kgc predict --queries FILE
--json</code> prints.</p><pre>{escape(_lines(explorer))}</pre></section>""")
    with gr.Row():
        upload = gr.File(label="Queries (.jsonl)", file_types=[".jsonl", ".json", ".txt"],
                         type="binary", height=160)
        _refuse_links(upload)
        answers = gr.File(label="Answers", interactive=False, height=160)
    with gr.Row():
        k = gr.Slider(1, MAX_ANSWERS, value=SHOWN, step=1, label="Answers to each")
        ask = gr.Button("Answer the file", variant="primary")

    def queries(file: bytes | None, k: int = SHOWN) -> str:
        """Answer a file of queries, one JSON object a line; gives a JSON document."""
        if file is None:
            raise InputError("There is no file yet; choose one with a query a line.")
        try:
            text = file.decode("utf-8-sig")
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
        if not (isinstance(entity, str) and isinstance(relation, str) and type(k) is int):
            raise InputError("entity and relation must be texts, and k a whole number.")
        return explorer.ask_as_data(Query(entity, relation, direction), k, explain=explain)

    def entities(text: str = "") -> list[str]:
        """Names of entities that match a text, best first."""
        return explorer.entities(text)

    def relations() -> list[str]:
        """The names of all relations."""
        return explorer.relations

    api(_sentences(predict), api_name="predict", concurrency_id=_MODEL, concurrency_limit=1)
    api(_sentences(entities), api_name="entities")
    api(_sentences(relations), api_name="relations")


def _nothing() -> tuple[str, str]:
    """What stands where answers and reasons were, once a question is refused."""
    return "", ""


def _sentences(act: Callable[P, T]) -> Callable[P, T]:
    """Let Gradio show an `InputError` as it is: as a sentence, not as a traceback."""
    @functools.wraps(act)
    def wrapped(*values: P.args, **named: P.kwargs) -> T:
        try:
            return act(*values, **named)
        except InputError as error:
            # Gradio shows the message as HTML.
            raise gr.Error(escape(str(error), quote=False), print_exception=False) from None
    return wrapped


def _refuse_links(upload: gr.File) -> None:
    """Take uploads only: Gradio would fetch a URL that a program names in their place."""
    take = upload.async_move_resource_to_block_cache

    async def take_uploaded(path: str | Path | None) -> str | None:
        if path is not None and "://" in str(path):
            raise gr.Error("A link is not fetched; upload the file.", print_exception=False)
        taken: str | None = await take(path)
        return taken

    vars(upload)["async_move_resource_to_block_cache"] = take_uploaded


def _answers(explorer: Explorer, asked: Asked) -> str:
    place = explorer.completer.resolve_entity(asked.query.name)
    return answers_html(asked, explorer.graph.entity_ids[place],
                        explorer.graph.entity_descriptions[place], explorer.pictures,
                        why=explorer.completer.writes)


def _reasons(explorer: Explorer, query: Query, answer: str) -> str:
    return reasons_html(explorer.reasons(query, answer)) if explorer.completer.writes else ""


def _options(names: Sequence[str]) -> str:
    options = "".join(f'<option value="{escape(name)}"></option>' for name in names)
    return f'<datalist id="entity-names">{options}</datalist>'


def _welcome(explorer: Explorer) -> str:
    graph, completer = explorer.graph, explorer.completer
    what = _WHAT[completer.writes, bool(completer.system.voices)]
    return f"""<section class="kgc"><h1>Ask {escape(graph.name)}</h1>
<p class="lead">Give one end of a fact and its relation; what stands at the other end?
{what} All {graph.num_entities:,} entities are candidates; their probabilities add
up to 100%.</p></section>"""


def _lines(explorer: Explorer) -> str:
    """Two queries as lines of a file."""
    graph = explorer.graph
    head, relation, tail = graph.train[0].tolist()
    known = {"relation": graph.relation_names[relation]}
    return "\n".join(json.dumps(entry, ensure_ascii=False) for entry in (
        {"head": graph.entity_names[head], **known}, {"tail": graph.entity_names[tail], **known}))
