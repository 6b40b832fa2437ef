"""``kgc calibrate``: are the probabilities of a run's answers right?"""

from __future__ import annotations

from argparse import Namespace

from caption_cache.command_line import Answer, Parser
from kgc_seq2seq.commands.arguments import run_folder


def add_calibrate(parser: Parser) -> None:
    """Add the command to ``kgc``."""
    command = parser.add_command("calibrate", _calibrate, (
        "compare the probabilities of a run's best answers with how often they are right"))
    run_folder(command)
    command.add_argument("--split", choices=["valid", "test"], default="test",
                         help="the facts to ask for")


def _calibrate(options: Namespace) -> Answer:
    from kgc_seq2seq.calibrate import calibrate_run

    result = calibrate_run(options.run, options.split)
    sides = {side: result[side] for side in ("both", "tail", "head")}
    lines = [f"{'asked for':9}  {'queries':>7}  {'probability':>11}  {'right':>6}  {'error':>6}"]
    lines += [f"{side:9}  {part['count']:7,}  {part['confidence']:11.1%}  {part['accuracy']:6.1%}"
              f"  {part['ece']:6.1%}" for side, part in sides.items()]
    return Answer(result, "\n".join([*lines, (
        "The mean probability of the best answer, the share of best answers that are right, and "
        "the expected calibration error.")]))
