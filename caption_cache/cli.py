"""The command line ``caption-cache``.

Every command imports what it needs by itself, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caption_cache.command_line import Answer, Parser, answering, whole_number
from caption_cache.errors import InputError
from caption_cache.prompts import SCOPES

if TYPE_CHECKING:
    from caption_cache.build import Preview, Report

_SUBJECTS = {"entity": "entities", "commonsense": "entities", "visual": "entities",
             "pair": "pairs, in both orders,",
             "summary": "pairs, in both orders,", "relation": "entities with a relation"}
_SHOWN = 5
"""So many failures are printed one by one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    words = sys.argv[1:] if arguments is None else arguments

    def act() -> tuple[Answer | None, bool]:
        options = _parser(_named_captioner(words)).parse_args(words)
        return options.command(options), options.json

    return answering("caption-cache", act)


def _named_captioner(words: Sequence[str]) -> str | None:
    """The captioner that a command line names, whose options it may therefore hold."""
    for index, word in enumerate(words):
        name, _, value = word.partition("=")
        if name == "--captioner":
            return value or next(iter(words[index + 1:]), None)
    return None


def _parser(captioner: str | None) -> Parser:
    parser = Parser(prog="caption-cache", description=(
        "Captions the images of a data set once, and keeps what was said. Exit codes: 0 done, "
        "1 the check found something, 2 bad input."))
    parser.add_version()
    build = parser.add_command("build", _build, "caption every image not captioned before")
    _dataset(build)
    build.add_argument("--captioner", default="palette", help=(
        "the engine that writes the texts: palette, transformers, openai or another that is "
        "installed; 'build --captioner NAME --help' tells its options"))
    build.add_argument("--scope", choices=SCOPES, default="entity", help=(
        "what the texts are about: each image of an entity; all its images at once, asked for what "
        "they tell about it or for what can be seen; each image of a linked pair; all images of "
        "a linked pair at once; each image of an entity, with a relation in mind"))
    build.add_argument("--split", default="train", help="whose facts link; only train is allowed")
    build.add_argument("--prompts", type=Path, metavar="FILE",
                       help="the questions, instead of prompts.toml in this package")
    build.add_argument("--names-hidden", action="store_true", help=(
        "ask without the entities' names: what is said comes from the pixels; only whether an "
        "image is relevant to a pair is asked by name, and --keep-all leaves that out"))
    build.add_argument("--keep-all", action="store_true", help=(
        "of a pair, ask about every image, not only those found relevant to both entities"))
    build.add_argument("--most-images", type=whole_number(1), metavar="N", default=25,
                       help="so many images are shown at once at most")
    build.add_argument("--language", default="en",
                       help="of the texts; others are rejected (any: none is)")
    build.add_argument("--retry", choices=["rejected", "failed"], action="append", default=[],
                       help="do those anew; can be given twice")
    build.add_argument("--instead-of", metavar="SOURCE", help=(
        "caption only what this source (a captioner, a model, a prompt or the digits in brackets "
        "that 'stats' prints) was rejected for or failed at"))
    build.add_argument("--limit", type=whole_number(1), metavar="N",
                       help="ask the captioner at most N questions now")
    build.add_argument("--dry-run", action="store_true", help=(
        "count what there is to do, and caption a few without keeping the texts, to estimate how "
        "long it takes"))
    build.add_argument("--sample", type=whole_number(0), metavar="N",
                       help="with --dry-run: so many, 0 for none; without it, one batch")
    if captioner and (its_options := _options_of(captioner)):
        from caption_cache.captioners.options import add_options

        add_options(build.add_argument_group(f"options of the captioner {captioner}"),
                    its_options)
    show = parser.add_command("show", _show, "print what the cache says of one entity")
    _dataset(show)
    show.add_argument("entity", help="the id of the entity")
    stats = parser.add_command("stats", _stats, "print coverage, lengths, failures and times")
    _dataset(stats)
    verify = parser.add_command("verify", _verify, (
        "check that every part can be read, every key is right, every image is still the same"))
    _dataset(verify)
    compact = parser.add_command("compact", _compact, "write all captions into few files")
    _dataset(compact)
    compact.add_argument("--prune", action="store_true",
                         help="drop the captions of images and entities that changed or are gone")
    gc = parser.add_command("gc", _gc, (
        "drop the texts of prompts or models no longer wanted, for good"))
    _dataset(gc)
    for name, what in (("--drop", "drop these"), ("--keep", "drop all but these")):
        gc.add_argument(name, metavar="SOURCE", action="append", default=[], help=(
            f"{what}: a captioner, a model, a prompt or the digits in brackets that 'stats' "
            "prints; can be given several times"))
    gc.add_argument("--dry-run", action="store_true", help="only say what would be dropped")
    export = parser.add_command("export", _export, "write the captions for other programs")
    _dataset(export)
    export.add_argument("--scope", choices=SCOPES, default="entity",
                        help="what the texts are about")
    export.add_argument("--format", choices=["tsv", "datasets"], default="tsv", help=(
        "a tab-separated table, or a folder for datasets.load_from_disk"))
    export.add_argument("--out", type=Path, help=(
        "the file or folder; without it, captions.tsv or captions-dataset"))
    export.add_argument("--source", help=(
        "whose texts: a captioner, a model, a prompt or the digits in brackets that 'stats' "
        "prints; several with commas, where a later one speaks where those before are silent"))
    return parser


def _dataset(parser: Parser) -> None:
    parser.add_argument("dataset", type=Path, help="the folder with entities.tsv and images")


def _options_of(captioner: str) -> type | None:
    from caption_cache.captioners import options_of

    return options_of(captioner)


def _build(options: Namespace) -> Answer | None:
    from caption_cache import build
    from caption_cache.build.processes import Processes
    from caption_cache.captioners import load_captioner
    from caption_cache.captioners.options import take_options
    from caption_cache.prompts import STANDARD

    task = build.Task(
        scope=options.scope, prompts=options.prompts or STANDARD,
        names_hidden=options.names_hidden, split=options.split, keep_all=options.keep_all,
        most_images=options.most_images, language=options.language, retry=tuple(options.retry),
        instead_of=options.instead_of)
    its_options = _options_of(options.captioner)
    captioner = load_captioner(
        options.captioner, None if its_options is None else take_options(its_options, options))
    if options.dry_run:
        sample = captioner.batch_size if options.sample is None else options.sample
        plan = build.preview(options.dataset, captioner, task, sample=sample)
        answer = Answer(asdict(plan), _preview_text(plan))
    else:
        report = build.build(options.dataset, captioner, task, limit=options.limit)
        answer = Answer(asdict(report), _report_text(report), int(bool(report.failures)))
    # One process answers for all; a code of 1 from another would make the launcher kill it.
    return answer if Processes.from_environment().rank == 0 else None


def _preview_text(plan: Preview) -> str:
    text = (f"{_items(plan.items)}: {plan.done} done, {plan.to_caption} texts to write, "
            f"{plan.at_once} without the captioner")
    if plan.to_judge:
        text += f"; {plan.to_judge} yes/no questions come first"
    if plan.seconds_per_text is not None and plan.estimated_seconds is not None:
        left = str(timedelta(seconds=round(plan.estimated_seconds)))
        text += f"; about {plan.seconds_per_text:.3g} s a text, {left} in one process"
    return text + ". Nothing was written."


def _report_text(report: Report) -> str:
    done = (f"{report.captioned} captioned now ({report.seconds:.1f} s)" if report.captioned
            else "nothing to caption" if not report.left else "nothing captioned")
    lines = [f"{_items(report.items)}: {done}, {report.done_before} done before"
             + f", {report.judged} judged now" * bool(report.judged)
             + f", {report.reused} equal to others" * bool(report.reused)
             + f", {report.rejected} rejected" * bool(report.rejected)
             + f", {len(report.failures)} failed" * bool(report.failures)
             + f", {report.left} left: run the command again" * bool(report.left) + "."]
    lines += [f"  {failure.image}: {failure.reason}: {failure.mend}"
              for failure in report.failures[:_SHOWN]]
    if len(report.failures) > _SHOWN:
        lines.append(f"  … and {len(report.failures) - _SHOWN} more; --json lists all")
    return "\n".join(lines)


def _items(count: int) -> str:
    return "1 item" if count == 1 else f"{count} items"


def _show(options: Namespace) -> Answer:
    import difflib

    import pyarrow.compute as pc

    from caption_cache.captions import current_rows
    from caption_cache.images import read_entities
    from caption_cache.source import Source

    ids = read_entities(options.dataset).texts("id")
    if options.entity not in ids:
        near = ", ".join(difflib.get_close_matches(options.entity, ids))
        raise InputError(f"{options.entity!r} is no id of {options.dataset / 'entities.tsv'}"
                         + (f"; did you mean {near}?" if near else "; give one that is."))
    rows = current_rows(options.dataset)
    found = rows.filter(pc.or_kleene(pc.equal(rows["entity"], options.entity),
                                     pc.equal(rows["neighbour"], options.entity))).to_pylist()
    lines = [", ".join([" ".join(row["images"]), *_subject(row), Source.from_columns(row).label])
             + ": " + (row["text"] if row["status"] == "ok"
                       else f"{row['status']}, {row['reason']}")
             for row in found]
    return Answer(found, "\n".join(lines) or f"Nothing is said of {options.entity}.")


def _subject(row: dict[str, Any]) -> list[str]:
    """What a row is about, beside one entity."""
    if row["neighbour"] is not None:
        return [f"{row['entity']} and {row['neighbour']}"]
    return [row["entity"], row["relation"]] if row["relation"] is not None else []


def _stats(options: Namespace) -> Answer:
    from caption_cache.stats import stats

    found = stats(options.dataset)
    lines = [f"{found.entities} entities, {found.entities_with_images} with images; "
             f"{found.images} image{'s' * (found.images != 1)}; {found.outdated} outdated captions"]
    for source in found.sources:
        lines.append(f"{source.label}: {source.entities} entities captioned; {source.ok} ok, "
                     f"{source.rejected} rejected, {source.failed} failed; "
                     f"{source.distinct_texts} different texts; {source.seconds:.1f} s")
        if source.characters:
            lines.append("  characters: shortest {}, median {}, longest {}".format(
                *source.characters))
        lines += [f"  {reason}: {count}" for reason, count in source.reasons.items()]
    return Answer(asdict(found), "\n".join(lines))


def _verify(options: Namespace) -> Answer:
    from caption_cache.verify import verify

    rows, findings = verify(options.dataset)
    lines = [f"{finding.where}: {finding.problem}" for finding in findings]
    lines.append(f"{rows} captions checked, {len(findings)} problems found.")
    return Answer({"rows": rows, "findings": [asdict(finding) for finding in findings]},
                  "\n".join(lines), int(bool(findings)))


def _compact(options: Namespace) -> Answer:
    from caption_cache.captions import still_shown
    from caption_cache.store import Store

    wanted = partial(still_shown, options.dataset) if options.prune else None
    before, after = Store(options.dataset).compact(wanted)
    return Answer({"rows_before": before, "rows": after},
                  f"{after} captions kept, {before - after} dropped.")


def _gc(options: Namespace) -> Answer:
    from caption_cache.collect import collect

    found = collect(options.dataset, drop=options.drop, keep=options.keep, dry_run=options.dry_run)
    verb = "would drop" if options.dry_run else "dropped"
    lines = [f"{source.label}: {verb if source.dropped else 'kept'}, {source.rows} texts"
             for source in found]
    return Answer([asdict(source) for source in found], "\n".join(lines))


def _export(options: Namespace) -> Answer:
    from caption_cache.captions import PROFILE, read_captions, read_link_captions
    from caption_cache.export import Texts, export_dataset, export_table

    texts: Texts
    if options.scope in ("entity", *PROFILE):
        captions = read_captions(options.dataset, options.source, scope=options.scope)
        subject, texts = ["entity"], captions.texts
    else:
        subject = ["entity", "relation" if options.scope == "relation" else "neighbour"]
        texts = read_link_captions(options.dataset, options.scope, options.source).texts
    if options.format == "tsv":
        out = options.out or Path("captions.tsv")
        export_table(texts, subject, out)
    else:
        out = options.out or Path("captions-dataset")
        export_dataset(texts, subject, out)
    return Answer({"out": str(out), "subjects": len(texts)},
                  f"The texts of {len(texts)} {_SUBJECTS[options.scope]} written to {out}.")


if __name__ == "__main__":
    sys.exit(main())
