"""``kgc doctor``: what is here, what is missing for what, and the mend."""

from __future__ import annotations

from argparse import Namespace

from caption_cache.command_line import Answer, Parser

_SIGNS = {"ok": " ", "note": "·", "missing": "!"}


def add_doctor(parser: Parser) -> None:
    """Add the command to ``kgc``."""
    parser.add_command("doctor", _doctor, (
        "say what this machine has, and what is missing for what; exit code 1 when something "
        "needed is missing"))


def _doctor(options: Namespace) -> Answer:
    from dataclasses import asdict

    from kgc_seq2seq.doctor import examine, facts

    checks = examine()
    counts = {state: sum(check.state == state for check in checks) for state in _SIGNS}
    width = max(len(check.name) for check in checks)
    lines = [f"{_SIGNS[check.state]} {check.name:{width}}  {check.found}"
             + (f"\n  {'':{width}}  → {check.mend}" if check.mend else "") for check in checks]
    lines.append("Something that is needed is missing (!)." if counts["missing"] else
                 "All that is needed is here.")
    return Answer({**facts(), "checks": [asdict(check) for check in checks], "counts": counts},
                  "\n".join(lines), code=int(counts["missing"] > 0))
