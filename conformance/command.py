"""Is an engine CLIP, how exactly, and if not, what is wrong with it.

`init LANGUAGE DIR` writes a starter, a program around an engine that answers as it stands. `run ENGINE` asks an engine
what the suite knows the answers of, grades each answer by what a correct engine of each precision would err, and looks
for the cause of what is wrong among the known faults. It exits with 0 if all that the engine claims and does is right,
else with 1. `export` writes the questions as files, for an engine that runs elsewhere, and `check` grades its answers.
`pack` writes the questions and answers of one level as plain files, for test suites in other languages. `list` shows
the cases, the claims and the known faults; `explain ID` one of them.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipref.cli.common import add_json_argument, print_json, print_table
from clipref.cli.output import text_file
from clipref.errors import InputError
from clipref.files import scratch_folder
from clipref.weights_tools.targets import TARGETS

from .engines import KINDS, TIME_LIMIT
from .protocol import PIXELS
from .reports.terminal import tell, tell_progress
from .starting import languages, write_starter

if TYPE_CHECKING:
    from .grading.verdicts import Report
    from .protocol import Question


_PROFILES = (
    "of preprocessing: openai; transformers-4, for 4 and 5.0 to 5.20; transformers-5, for 5.21 and later; either with "
    "-torchvision for the processor that stands on it, which is the default in 5 where torchvision is installed"
)
_ONLY = "cases whose id has one of these in it; none whose id has what follows a '!'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="init|run|export|check|pack|list|explain")
    starter = actions.add_parser("init", help="write a starter, for you to put your engine into")
    starter.add_argument("language", choices=languages(), help="what it is written in")
    starter.add_argument("folder", type=Path, metavar="DIR", help="the folder to write it into")
    runner = actions.add_parser(
        "run",
        help="ask an engine, grade its answers, and say what is wrong",
        epilog=f"ENGINE is one of\n{KINDS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    runner.add_argument("engine", metavar="ENGINE", help="what to test; see below")
    runner.add_argument("--time-limit", type=float, default=TIME_LIMIT, metavar="S", help="seconds for an answer (60)")
    runner.add_argument("--released", nargs="+", default=[], metavar="MODEL", help="released weights on this machine")
    runner.add_argument("--images", type=_path, metavar="DIR", help="images that values are published of")
    checker = actions.add_parser("check", help="grade the answers beside exported cases")
    checker.add_argument("folder", metavar="DIR")
    for action in (runner, checker):
        action.add_argument("--precision", default="float32", help="what the engine claims (float32)")
        action.add_argument("--pixels", choices=PIXELS, default="exact", help="how near pixels have to be (exact)")
        action.add_argument("--expected-failures", type=_path, metavar="FILE", help="cases that fail, with reasons")
        action.add_argument("--junit", type=_path, metavar="FILE", help="write JUnit XML")
        action.add_argument("--html", type=_path, metavar="FILE", help="write one page that shows everything")
        action.add_argument(
            "--badge", type=_path, action="append", default=[], metavar="FILE",
            help="write what was asked, as .svg or, for shields.io, as .json; may be given twice",
        )  # fmt: skip
        action.add_argument("--verbose", action="store_true", help="show every case")
        add_json_argument(action)
    exporter = actions.add_parser("export", help="write the cases as files")
    exporter.add_argument("folder", metavar="DIR")
    exporter.add_argument("--onnx", action="store_true", help="those of the towers also as ONNX backend tests")
    for action in (runner, exporter):
        layouts = "of the checkpoints' folders: clipref (the default), transformers or open_clip"
        action.add_argument("--layout", choices=TARGETS, default="clipref", help=layouts)
        action.add_argument("--minute", action="store_true", help="a few questions, with numpy and safetensors alone")
    packer = actions.add_parser("pack", help="write the questions and answers of a level as plain files")
    packer.add_argument("level", choices=("tokenize", "preprocess"), metavar="tokenize|preprocess")
    packer.add_argument("folder", metavar="DIR")
    packer.add_argument("--only", nargs="+", default=[], metavar="TEXT", help=_ONLY)
    packer.add_argument("--profile", default="openai", help=_PROFILES)
    for action in (runner, checker, exporter):
        action.add_argument("--levels", nargs="+", metavar="LEVEL", help="what the engine claims (most)")
        action.add_argument("--full", nargs="+", default=[], metavar="MODEL", help="published sizes: clip/ViT-B-32 ...")
        action.add_argument("--only", nargs="+", default=[], metavar="TEXT", help=_ONLY)
        profile = None if action is checker else "openai"  # what is checked was exported with one
        action.add_argument("--profile", default=profile, help=_PROFILES)
    add_json_argument(actions.add_parser("list", help="the cases, the claims and the known faults"))
    explainer = actions.add_parser("explain", help="what a case, a claim or a fault means")
    explainer.add_argument("id", metavar="ID")


def _path(text: str) -> Path:
    """A path as it is meant now: an engine in Python may change the current folder."""
    return Path(text).absolute()


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; the exit code of `run` and `check` is the verdict."""
    if args.action == "list":
        return _list(args.json)
    if args.action == "explain":
        print(explanation(args.id))
        return 0
    if args.action == "init":
        print(write_starter(args.language, args.folder))
        return 0
    if args.action == "export":
        return _export(args)
    if args.action == "pack":
        from .packs.writing import pack

        return pack(args.level, args.folder, args.profile, lambda case: _is_meant(case, args.only))
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    from . import expectations
    from .grading.rounding import PRECISIONS

    if args.precision not in PRECISIONS:
        raise InputError(f"No precision {args.precision!r}; there are: {', '.join(PRECISIONS)}.")
    if args.action == "check":
        chosen, others, profile = _read_exported(args)
        name = f"results:{args.folder}"
    else:
        chosen, others = _select(args, args.profile)
        name, profile = args.engine, args.profile
    reasons = expectations.read(args.expected_failures, expectations.all_ids()) if args.expected_failures else {}
    with _outputs(args) as write:
        report = _ask(args, chosen, others, name, profile, reasons)
        write(report)
    tell(report, args.json, args.verbose)
    return 0 if report.passed else 1


def _ask(
    args: argparse.Namespace,
    chosen: list[Question],
    others: list[Question],
    name: str,
    profile: str,
    reasons: Mapping[str, str],
) -> Report:
    """Open the engine, ask it everything, and report."""
    from . import expectations, minute, suite
    from .engines import open_engine
    from .engines.laid_out import LaidOut

    with _stdout_to_stderr():
        engine = open_engine(name, getattr(args, "time_limit", TIME_LIMIT))
        if getattr(args, "layout", "clipref") != "clipref":
            engine = LaidOut(engine, args.layout)
        report = suite.run(
            engine, chosen, name=name, precision=args.precision, profile=profile, pixels=args.pixels,
            reasons=reasons, unclaimed=others, progress=tell_progress, among=minute.among(chosen, profile),
        )  # fmt: skip
        for model in getattr(args, "released", []):
            from . import released

            found = (expectations.expected_result(r, reasons) for r in released.results(engine, model, args.images))
            report = dataclasses.replace(report, results=[*report.results, *found])
    return report


@contextlib.contextmanager
def _outputs(args: argparse.Namespace) -> Iterator[Callable[[Report], None]]:
    """What writes the files that are asked for, which are there when this ends well.

    Raises InputError at once if one of them can't be written, and not after the work.
    """
    from .reports.badge import as_badge, badge_path
    from .reports.files import as_junit
    from .reports.html import as_html
    from .reports.words import printable

    with contextlib.ExitStack() as stack:
        junit = stack.enter_context(text_file(args.junit, "--junit")) if args.junit is not None else None
        html = stack.enter_context(text_file(args.html, "--html")) if args.html is not None else None
        badges = [(stack.enter_context(text_file(badge_path(path), "--badge")), path) for path in args.badge]

        def write(report: Report) -> None:
            if junit is not None:
                junit(as_junit(report))
            if html is not None:
                html(printable(as_html(report)))
            for badge, path in badges:
                badge(as_badge(report, path))

        yield write


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What an engine prints, from Python or from a library below it, goes to stderr: stdout is for the report."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        with contextlib.suppress(TypeError, OSError, AttributeError):  # Windows: None is no library
            ctypes.CDLL(None).fflush(None)  # what C still holds back
        os.dup2(kept, 1)
        os.close(kept)


def _select(args: argparse.Namespace, profile: str) -> tuple[list[Question], list[Question]]:
    """The questions to be asked, and those that the engine doesn't claim to answer."""
    from .minute import MINUTE
    from .questions import DEFAULT, questions

    claimed = args.levels or list(DEFAULT)
    chosen = [q for q in questions(claimed, args.full, profile) if _is_meant(q.id, args.only)]
    if getattr(args, "minute", False):
        chosen = [q for q in chosen if q.id in MINUTE]
        if not chosen:
            raise InputError(f"The minute has no such question of {', '.join(claimed)}; leave out --minute.")
    unclaimed = [level for level in DEFAULT if level not in claimed]
    others = [q for q in questions(unclaimed) if _is_meant(q.id, args.only)]
    if not chosen and not getattr(args, "released", []):
        for level, option in (("full", "--full MODEL"), ("released", "--released MODEL")):
            if claimed == [level]:
                raise InputError(f"The level {level} needs {option}, such as {option[:-5]}clip/ViT-B-32.")
        only = " ".join(map(repr, args.only))
        raise InputError(f"No case has {only} in its id; see clipref conformance list.")
    return chosen, others


def _is_meant(case: str, only: Sequence[str]) -> bool:
    """Whether `--only` means the case of an id: one that has any of the texts in it, and none of those behind a "!"."""
    left_out = [text[1:] for text in only if text.startswith("!")]
    wanted = [text for text in only if not text.startswith("!")]
    return (not wanted or any(text in case for text in wanted)) and not any(text in case for text in left_out)


def _read_exported(args: argparse.Namespace) -> tuple[list[Question], list[Question], str]:
    """As `_selected`, by what was exported where nothing else is asked for; and the profile to grade by."""
    from clipref.config import PUBLISHED

    from .exchange import read_export
    from .questions import ASKABLE, questions

    known = read_export(Path(args.folder))
    profile = args.profile or known.profile
    if args.levels or args.full or args.only:
        return *_select(args, profile), profile
    chosen = {q.id: q for q in questions(ASKABLE, list(PUBLISHED), profile)}
    # Cases differ from profile to profile: not every one has all.
    others = {q.id: q for q in questions(ASKABLE, list(PUBLISHED), known.profile) if q.id not in chosen}
    for case in known.cases:
        if case not in chosen and case not in others:
            raise InputError(
                f"{args.folder} was exported with a case {case!r}, which this version of clipref doesn't know; "
                "export the cases again, or check them with the version that did."
            )
    asked = set(known.cases)
    return [q for id, q in chosen.items() if id in asked], [q for id, q in others.items() if id in asked], profile


def _export(args: argparse.Namespace) -> int:
    from .exchange import export

    chosen, _ = _select(args, args.profile)
    with scratch_folder() as scratch:
        cases = (question.make(scratch) for question in chosen)
        count, left_out = export(cases, args.folder, args.onnx, args.profile, args.layout)
    for reason, cases_left_out in left_out.items():
        print(f"{cases_left_out} cases left out: {reason}")
    print(f"{count} cases in {args.folder}. Put answer.safetensors beside each case.json, then:")
    print(f"clipref conformance check {args.folder}")
    return 0


def explanation(identity: str) -> str:
    """A fault's title and claim, a claim's text, or what a case asks. Raises InputError."""
    from .faults import BY_ID
    from .questions import ASKABLE, LEVELS, questions
    from .spec import claims

    known = claims()
    if identity in BY_ID:
        fault = BY_ID[identity]
        return f"{fault.id}: the reference with {fault.title}. It breaks {explanation(fault.claim)}"
    if identity in known:
        return f"{identity}: {known[identity]}"
    if identity in LEVELS:
        return f"{identity}: {LEVELS[identity]}"
    from clipref.config import PUBLISHED

    for question in questions(ASKABLE, list(PUBLISHED)):
        if question.id == identity:
            return "\n".join(
                [f"{identity}: {question.verb}", *(f"- {claim}: {known[claim]}" for claim in question.claims)]
            )
    raise InputError(f"No fault, claim, level or case is called {identity!r}; see clipref conformance list.")


def _list(json: bool) -> int:
    from clipref.config import PUBLISHED

    from .faults import FAULTS
    from .questions import ASKABLE, LEVELS, questions
    from .spec import claims

    cases = list(questions(ASKABLE, list(PUBLISHED)))
    if json:
        faults: list[dict[str, Any]] = [
            {"id": f.id, "claim": f.claim, "title": f.title, "places": f.places} for f in FAULTS
        ]
        asked = [{"id": q.id, "level": q.level, "verb": q.verb, "claims": q.claims} for q in cases]
        print_json({"levels": LEVELS, "cases": asked, "claims": claims(), "faults": faults})
        return 0
    print_table([("level", "cases", "what it asks"), *(
        (level, str(sum(q.level == level for q in cases)), what) for level, what in LEVELS.items()
    )])  # fmt: skip
    print()
    print_table([("case", "claims"), *((q.id, " ".join(q.claims)) for q in cases)])
    print()
    print_table([("claim", "what it says"), *claims().items()])
    print()
    print_table([("fault", "claim", "the reference with"), *((f.id, f.claim, f.title) for f in FAULTS)])
    return 0
