"""``kgc audit``: what is wrong with a data set."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

from caption_cache.command_line import Answer, Parser
from kgc_seq2seq.commands.arguments import dataset_folder


def add_audit(parser: Parser) -> None:
    """Add ``kgc audit``."""
    audit = parser.add_command("audit", _audit, (
        "check a data set for leaks, repeats, foreign ids, names that collide and bad images"))
    dataset_folder(audit)
    audit.add_argument("--fail-on", choices=["error", "warning"], metavar="SEVERITY", help=(
        "end with exit code 1 on a finding of this severity or worse: error or warning"))
    audit.add_argument("--tokenizer", metavar="T5", help=(
        "a folder or a name on the hub: also check that names differ as its tokens"))


def _audit(options: Namespace) -> Answer:
    from kgc_seq2seq.graph.audit import Spell, audit_dataset
    from kgc_seq2seq.graph.audit.findings import Severity, findings_text, worst

    spell: Spell | None = None
    if options.tokenizer:
        from functools import partial

        from kgc_seq2seq.text.catalogue import token_keys
        from kgc_seq2seq.training.model import load_tokenizer

        spell = partial(token_keys, load_tokenizer(options.tokenizer))
    findings = audit_dataset(options.dataset, spell)
    counts = {severity.value: sum(finding.severity is severity for finding in findings)
              for severity in Severity}
    failed = options.fail_on is not None and worst(findings).rank <= Severity(options.fail_on).rank
    return Answer(
        {"dataset": str(options.dataset), "counts": counts,
         "findings": [asdict(finding) for finding in findings]},
        findings_text(findings) + "\n" + ", ".join(f"{name}: {count}"
                                                   for name, count in counts.items()),
        code=int(failed))
