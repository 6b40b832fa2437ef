"""A generator, scorers and their fusions on one data set, in one table, and without images.

Part ``table``: exact filtered MRR and Hits on test of the generator, of each scorer, of each
scorer fused with the generator, of all fused, of all as rerankers, and of the ensemble of all,
over seeds; every system ranks all entities. Weights are fitted on valid. Beside them stand rivals:
other generators of the same size and budget, which are no part of a fusion. Then the decoder
positions that exact ranks and exact ten best answers of the fusion take, with the scorers as
heuristic and without: there the bound of a prefix has the largest prior of all entities, not of
those under it.

Part ``missing``: images of a share of the entities that have any are taken from the trained systems
when they are evaluated, their captions from the generator and their vectors from the scorers,
nested masks from a seed. Nothing is trained or fitted anew: it shows what a system loses where it
is used, not what it would have learnt without images. A scorer that reads no images loses nothing.

What is finished under --runs is not repeated.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from bench_common import bench_parser, finish, spread
from matplotlib.figure import Figure
from rich.console import Console

from caption_cache.build import build
from caption_cache.captioners import load_captioner
from kgc_seq2seq.arrays import Ints
from kgc_seq2seq.config import RunConfig, config_parser, parse_config, read_yaml
from kgc_seq2seq.decoding.nodes import Prior
from kgc_seq2seq.evaluation.ranking import rank_triples
from kgc_seq2seq.evaluation.results import protocol, read_result, summarize, write_result
from kgc_seq2seq.fuse import FuseConfig, fuse_runs
from kgc_seq2seq.graph.nations import write_nations
from kgc_seq2seq.runs import Method, Run, open_run, read_fusion
from kgc_seq2seq.scorers.features.choose import FeatureChoice, make_vectors
from kgc_seq2seq.scorers.scorer import EntityScorer
from kgc_seq2seq.systems.combined import Combined
from kgc_seq2seq.systems.fused import Fused
from kgc_seq2seq.systems.generator import Generator
from kgc_seq2seq.text.verbalizer import Verbalizer
from kgc_seq2seq.train import run_training
from kgc_seq2seq.train_scorer import config_class, train_scorer
from kgc_seq2seq.training.model import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
SCORERS = ("distmult", "complex", "rotate", "lbmkgc", "mocme")
RIVALS = ("names-only", "kgt5", "kgt5-context", "mmkg-t5")
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)
QUICK_FACTS, QUICK_STEPS = 15, 30
GENERATOR, ALL = "generator", "all"
METHODS: tuple[Method, ...] = ("fused", "rerank", "ensemble")

say = Console(stderr=True).print


def main() -> None:
    parser = bench_parser("fusion-nations", __doc__)
    parser.add_argument("--dataset", default="nations",
                        help="'nations', or a folder with what the systems read of it")
    parser.add_argument("--generator", type=Path, metavar="YAML",
                        default=ROOT / "configs" / "nations.yaml", help="its configuration")
    parser.add_argument("--scorers", type=Path, nargs="+", metavar="YAML",
                        default=[ROOT / "configs" / f"nations-{name}.yaml" for name in SCORERS],
                        help="their configurations")
    parser.add_argument("--rivals", type=Path, nargs="*", metavar="YAML",
                        default=[ROOT / "configs" / f"nations-{name}.yaml" for name in RIVALS],
                        help="configurations of generators to compare with")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--depth", type=int, default=10,
                        help="how many of the generator's answers a reranker orders")
    parser.add_argument("--parts", default="table,missing", help="what to measure")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, help=(
        "how all are combined; an ensemble scores the whole catalogue for every query"))
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="keep the runs there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help=(
        "draw the missing images, such as scripts/results/fusion-nations-missing.svg"))
    options = parser.parse_args()
    parts = options.parts.split(",")
    if set(parts) - {"table", "missing"} or "fused" not in options.methods:
        parser.error("--parts takes table, missing, or both with a comma; --methods needs fused")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(options, options.runs or Path(scratch))
        result: dict[str, Any] = {"dataset": options.dataset, "seeds": bench.seeds}
        ratios: dict[str, float] = {}
        if "table" in parts:
            result["systems"] = bench.table()
            result["positions"] = bench.positions()
            ratios |= table_ratios(result["systems"], result["positions"], list(bench.rivals))
        if "missing" in parts:
            result["missing_images"] = bench.missing()
            if options.plot:
                draw(result["missing_images"], options.plot)
            ratios |= {f"MRR, without any image to with all, {name}":
                       found["1.0"]["mean"] / found["0.0"]["mean"]
                       for name, found in result["missing_images"].items()}
    finish(result, ratios, ["transformers"], options.out)


@dataclass(frozen=True)
class Row:
    """A system of the table."""

    name: str
    """What the table calls it."""
    folder: Callable[[int], Path]
    """Its run of a seed, made if need be."""


class Bench:
    """Makes every run once, and measures it."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.seeds = list(range(1 if options.quick else options.seeds))
        self.scorers: dict[str, Path] = {path.stem: path for path in options.scorers}
        self.rivals: dict[str, Path] = {path.stem: path for path in options.rivals}
        self.accelerator = Accelerator(cpu=not torch.accelerator.is_available())
        self.dataset = self._dataset()
        self._shown: np.ndarray[Any, np.dtype[np.bool_]] | None = None
        self.rows = [
            Row(GENERATOR, self.generator),
            *(Row(name, partial(self._generator, name, path))
              for name, path in self.rivals.items()),
            *(Row(name, partial(self.scorer, name)) for name in self.scorers),
            *(Row(f"{GENERATOR} + {name}", partial(self.fusion, [name], "fused"))
              for name in self.scorers),
            *(Row(f"{method}, {ALL}", partial(self.fusion, [*self.scorers], method))
              for method in options.methods)]

    def table(self) -> dict[str, Any]:
        """The figures on test of every system, over seeds."""
        found = {}
        for row in self.rows:
            results = [read_result(row.folder(seed) / "results" / "test.json")
                       for seed in self.seeds]
            found[row.name] = {
                f"{side}_{name}": spread(result[side][name] for result in results)
                for side in ("both", "tail", "head")
                for name in ("mrr", "hits@1", "hits@3", "hits@10")}
            say(f"{row.name}: MRR {found[row.name]['both_mrr']['mean']:.4f} "
                f"± {found[row.name]['both_mrr']['sd']:.4f}")
        return found

    def positions(self) -> dict[str, Any]:
        """Decoder positions of the fusion's search on test, with and without the heuristic."""
        fused = open_run(self.fusion([*self.scorers], "fused", self.seeds[0])).system
        assert isinstance(fused, Fused)
        graph, search = fused.graph, fused.generator.search

        def blind(queries: Ints) -> Prior:
            prior = fused.prior(queries)
            leaf = torch.from_numpy(search.trie.is_leaf).to(prior.under.device)[:, None]
            return Prior(torch.where(leaf, prior.under, prior.under[:1]))

        found: dict[str, Any] = {"queries": 2 * len(graph.test)}
        for name, prior_of in (("with", fused.prior), ("without", blind)):
            search.positions = 0
            rank_triples(search, fused.generator.verbalizer, graph.test, self.accelerator,
                         prior_of=prior_of)
            found[f"rank_{name}_heuristic"] = search.positions
            search.positions = 0
            questions = graph.queries(graph.test)[:, :2]
            for start in range(0, len(questions), 64):
                part = questions[start : start + 64]
                fused.generator.most_probable(part, 10, prior_of(part), open_mass=None)
            found[f"top_10_{name}_heuristic"] = search.positions
        return found

    def missing(self) -> dict[str, Any]:
        """MRR on test as images are taken away: by system, by rate, over seeds."""
        shown = [row for row in self.rows if "+" not in row.name and row.name not in self.rivals]
        found: dict[str, Any] = {}
        for row in shown:
            found[row.name] = {
                str(rate): spread(self._without_images(row.folder(seed), seed, rate)
                                  for seed in self.seeds)
                for rate in (RATES[::2] if self.options.quick else RATES)}
            say(f"{row.name}: " + ", ".join(f"{float(rate):.0%} {spread_['mean']:.4f}"
                                            for rate, spread_ in found[row.name].items()))
        return found

    def generator(self, seed: int) -> Path:
        """The generator's run."""
        return self._generator(GENERATOR, self.options.generator, seed)

    def _generator(self, name: str, path: Path, seed: int) -> Path:
        run = self.folder / f"{name}-{seed}"
        if not _finished(run):
            config, _ = parse_config(config_parser("bench", "", RunConfig),
                                     self._words(path, run, seed), RunConfig)
            run_training(config)
        return run

    def scorer(self, name: str, seed: int) -> Path:
        """The run of a scorer."""
        run, path = self.folder / f"{name}-{seed}", self.scorers[name]
        if not _finished(run):
            kind = config_class(str(read_yaml(path)["scorer"]))
            config, _ = parse_config(config_parser("bench", "", kind),
                                     self._words(path, run, seed), kind)
            train_scorer(config)
        return run

    def fusion(self, names: list[str], method: Method, seed: int) -> Path:
        """The run of a fusion."""
        which = names[0] if len(names) == 1 else ALL
        run = self.folder / f"{method}-{which}-{seed}"
        if not _finished(run):
            config = FuseConfig(method)
            if method == "rerank":
                config = replace(config, depth=self.options.depth)
            fuse_runs([self.generator(seed), *(self.scorer(name, seed) for name in names)], run,
                      config)
        return run

    def _words(self, path: Path, run: Path, seed: int) -> list[str]:
        words = ["--config", str(path), "--dataset", str(self.dataset), "--out", str(run),
                 "--seed", str(seed)]
        if self.options.quick:
            words += ["--training.steps", str(QUICK_STEPS),
                      "--training.validate_every", str(QUICK_STEPS)]
        return words

    def _dataset(self) -> Path:
        if self.options.dataset != "nations":
            dataset = Path(self.options.dataset)
        else:
            dataset = self.folder / "dataset"
            write_nations(dataset)
            build(dataset, load_captioner("palette"))
            make_vectors(dataset, FeatureChoice())
        return _short(dataset, self.folder / "short") if self.options.quick else dataset

    def _without_images(self, folder: Path, seed: int, rate: float) -> float:
        intact = folder / "results" / "test.json"
        if not rate:
            return _mrr(intact)
        path = intact.with_name(f"test-without-{rate:.0%}-of-images.json")
        if path.exists():
            return _mrr(path)
        run = open_run(folder)
        system, graph = run.system, run.system.graph
        if run.kind == "scorer" and not any(_has_images(voice.scorer) for voice in system.voices):
            return _mrr(intact)
        dropped = self._dropped(seed, rate)
        if isinstance(system, Generator):
            system = _blinded(system, run, folder, dropped)
        elif isinstance(system, Combined):
            system = replace(system, generator=_blinded(
                system.generator, run, folder / read_fusion(folder).parts[0].run, dropped))
        for voice in system.voices:
            _blind_scorer(voice.scorer, dropped)
        ranks = system.rank(graph.test, self.accelerator)
        write_result(path, {**summarize(graph, graph.test, ranks), "protocol": protocol(
            graph, "test", images_dropped=rate, images_dropped_seed=seed,
            images_dropped_at="evaluation")})
        return _mrr(path)

    def _dropped(self, seed: int, rate: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Entities that lose their images: a share of those that any system has an image of."""
        if self._shown is None:
            run = open_run(self.generator(seed))
            self._shown = np.array([key in run.captions for key in run.system.graph.entity_ids])
            for name in self.scorers:
                for voice in open_run(self.scorer(name, seed)).system.voices:
                    if _has_images(voice.scorer):
                        self._shown |= voice.scorer.vectors("image").mask.cpu().numpy()
        has = self._shown
        shown = np.random.default_rng(seed).permutation(np.flatnonzero(has))
        dropped = np.zeros(len(has), bool)
        dropped[shown[: round(rate * len(shown))]] = True
        return dropped


def _blinded(
    generator: Generator, run: Run, folder: Path, dropped: np.ndarray[Any, np.dtype[np.bool_]]
) -> Generator:
    """A generator that does not read the captions of some entities."""
    config = RunConfig.load(folder / "config.yaml")
    gone = {generator.graph.entity_ids[entity] for entity in np.flatnonzero(dropped).tolist()}
    captions = {key: text for key, text in run.captions.items() if key not in gone}
    return replace(generator, verbalizer=Verbalizer(
        generator.graph, captions, load_tokenizer(folder / "tokenizer"), config.input,
        config.seed))


def _blind_scorer(
    scorer: EntityScorer, dropped: np.ndarray[Any, np.dtype[np.bool_]]
) -> None:
    """Take the image vectors of some entities from a scorer."""
    if _has_images(scorer):
        vectors, gone = scorer.vectors("image"), torch.from_numpy(dropped)
        vectors.mask[gone] = False
        vectors.values[gone] = 0
        scorer.eval()  # forget what it has made of them


def _has_images(scorer: EntityScorer) -> bool:
    return "image" in scorer.reads(scorer.config)


def _mrr(path: Path) -> float:
    return float(read_result(path)["both"]["mrr"])


def _finished(run: Path) -> bool:
    return (run / "results" / "test.json").is_file()


def _short(dataset: Path, folder: Path) -> Path:
    """A copy of a data set's tables, captions and vectors, with the first facts to be asked."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in dataset.iterdir():
        if path.name in ("valid.tsv", "test.tsv"):
            lines = path.read_text("utf-8").splitlines(keepends=True)
            (folder / path.name).write_text("".join(lines[: 1 + QUICK_FACTS]), "utf-8")
        elif path.is_file() and path.suffix in (".tsv", ".json"):
            shutil.copy(path, folder)
        elif path.name in ("captions", "features"):
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
    return folder


def table_ratios(
    systems: dict[str, Any], positions: dict[str, Any], rivals: list[str]
) -> dict[str, float]:
    """The fusion against parts and rivals, and the search with against without its heuristic."""
    def mrr(name: str) -> dict[str, Any]:
        figure: dict[str, Any] = systems[name]["both_mrr"]
        return figure

    fused = mrr(f"fused, {ALL}")
    parts = [name for name in systems if "," not in name and "+" not in name
             and name not in rivals]
    best = max(parts, key=lambda name: float(mrr(name)["mean"]))
    others = [best, *rivals, *(name for name in systems if "," in name and name != f"fused, {ALL}")]
    found = {f"MRR, fusion of all to {name}": fused["mean"] / mrr(name)["mean"]
             for name in others}
    wider = max(fused["sd"], mrr(best)["sd"])
    if wider:
        found["MRR, fusion of all over its best part, in standard deviations"] = (
            fused["mean"] - mrr(best)["mean"]) / wider
    for what in ("rank", "top_10"):
        found[f"positions, {what}, without to with heuristic"] = (
            positions[f"{what}_without_heuristic"] / positions[f"{what}_with_heuristic"])
    return found


def draw(missing: dict[str, Any], path: Path) -> None:
    """Plot MRR by the share of images that were taken away."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, found in missing.items():
        rates = [100 * float(rate) for rate in found]
        axes.errorbar(rates, [point["mean"] for point in found.values()],
                      [point["sd"] for point in found.values()], marker="o", capsize=3, label=name)
    axes.set_xlabel("images taken away, %")
    axes.set_ylabel("filtered MRR on test")
    axes.set_xticks(sorted({100 * float(rate) for found in missing.values() for rate in found}))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
