"""`rlhf-tune compare`: show people the trials of a study two by two, and note what they prefer."""

from __future__ import annotations

import argparse
import getpass
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_tune.cli import storages
from rlhf_tune.cli.questions import KINDS, ask
from rlhf_tune.errors import InvalidInputError, require
from rlhf_tune.foreign import shortened

if TYPE_CHECKING:
    from optuna.study import Study

    from rlhf_tune.study.comparing import Session

_EVERY = 2.0  # seconds, cards of new trials are made

_HELP = """\
Show the trials of a study two by two, as cards of their outcomes, and note which one you prefer;
or rate them one by one, or rank four at a time (--ask).

Give your trials outcomes, numbers by name, and about twenty comparisons teach a reward model what
you want of them:

  trial.set_user_attr("outcomes", {"accuracy": 0.93, "robust": 0.61, "seconds": 41.0})

In a preferential study DQNSampler then proposes what you are likely to prefer.

keys of comparisons: 1 the left one, 2 the right one, t a tie, s skip, u undo, q quit
        ratings:     1 the worst to 9 the best; only how your own ratings differ counts
        rankings:    the numbers of the cards, the best first
"""

_EPILOG = """\
examples:
  rlhf-tune compare --study mnist --storage sqlite:///mnist.db
  rlhf-tune compare --study mnist --storage sqlite:///mnist.db --annotator ada --role expert
  rlhf-tune compare --study mnist --storage sqlite:///mnist.db --ask rankings
  rlhf-tune compare --study mnist --storage sqlite:///mnist.db --browser
                                   the same in a browser: optuna-dashboard, on this machine alone
  rlhf-tune compare --study mnist --storage sqlite:///mnist.db --report
                                   how far the answers can be trusted; --import, --export: files

Answers are appended to STUDY.judgements.jsonl beside the storage, never rewritten: whatever is
killed, none is lost.
"""


def add_commands(subparsers: Any) -> None:
    """Add the command to those of the program."""
    parser = subparsers.add_parser(
        "compare",
        help="compare trials, so that the tuner learns what you want",
        description=_HELP,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--study", metavar="NAME", required=True, help="its name in the storage")
    add("--storage", metavar="URL", required=True, help="an Optuna storage: sqlite:///mnist.db")
    add("--log", type=Path, metavar="FILE", help="of the judgements; default: beside the storage")
    add("--annotator", metavar="WHO", default=None, help="who answers; default: your user name")
    add("--role", default="user", help="as what, such as expert; default: %(default)s")
    add(
        "--context",
        default="",
        help="for what use, such as edge; default: any. What uses agree in is shared",
    )
    add("--ask", choices=KINDS, default="comparisons", help="for what; default: %(default)s")
    add("--questions", type=int, metavar="N", help="ask at most N; default: until you quit")
    add("--artifacts", type=Path, metavar="DIR", help="of a FileSystemArtifactStore: show texts")
    add("--browser", action="store_true", help="serve optuna-dashboard at 127.0.0.1 instead")
    add("--port", type=int, default=8080, help="of --browser; default: %(default)s")
    add("--import", dest="take", type=Path, metavar="FILE", help="add judgements (.jsonl, .csv)")
    add("--export", type=Path, metavar="FILE", help="write all judgements (.jsonl, .csv)")
    add("--report", action="store_true", help="show how far the judgements can be trusted")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the command; returns the exit status.

    Raises:
        InvalidInputError: If the study cannot be read, or a file does not fit it.
    """
    from rlhf_tune.feedback.judgements import JudgementLog, export, load
    from rlhf_tune.study.comparing import Session, log_beside

    if args.questions is not None and args.questions < 1:
        raise InvalidInputError(f"`--questions` must be at least 1, but got {args.questions}")
    if args.browser and args.ask != "comparisons":
        raise InvalidInputError(
            f"`--browser` asks for comparisons alone, but got `--ask {args.ask}`; leave one out"
        )
    study = _study(args)
    log = JudgementLog(args.log or log_beside(args.study, args.storage))
    who = {"annotator": args.annotator or _user(), "role": args.role, "context": args.context}
    session = Session(study, log, **who)
    if args.take:
        print(f"{session.add(load(args.take))} new judgements of {args.take}")
    if args.export:
        export(log.read(), args.export)
        print(f"wrote {args.export}")
    if args.report:
        show_quality(session)
    if args.browser:
        return _browse(session, args)
    if not (args.take or args.export or args.report):
        ask(session, args.questions, kind=KINDS[args.ask], artifacts=args.artifacts)
        print(f"judgements: {log.path}")
        show_quality(session)
    return 0


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without names
        return "anonymous"


def _study(args: argparse.Namespace) -> Study:
    import optuna

    if "://" in args.storage:
        storages.check_there(args.storage)
    try:
        return optuna.load_study(study_name=args.study, storage=args.storage)
    except Exception as exc:
        raise InvalidInputError(
            f"`--study` must be one of `--storage`, but {args.study!r} of {args.storage!r} cannot "
            f"be read ({type(exc).__name__}: {shortened(exc)}); give a storage like "
            "sqlite:///mnist.db"
        ) from exc


def show_quality(session: Session) -> None:
    """Print how far the judgements of a session can be trusted."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from rlhf_tune.errors import plain
    from rlhf_tune.feedback.quality import quality_of

    found = quality_of(session.log.read())
    table = Table("judgements of people", "")
    shares = {
        "pairs compared more than once": found.redundancy,
        "the same answer when asked again": found.repeated,
        "the same answer with sides changed": found.flipped,
        "the left one preferred (half is right)": found.left,
        "triples that go round in a circle (coins: a quarter)": found.intransitive,
        "agreement of annotators (Krippendorff's alpha)": found.alpha,
    }
    table.add_row("number", str(found.judgements))
    table.add_row("minutes spent", f"{found.minutes:.1f}")
    for name, value in shares.items():
        table.add_row(name, "not known yet" if value != value else f"{value:.2f}")
    if len(found.reliability) > 1:
        for who, value in found.reliability.items():
            table.add_row(Text(f"reliability of {plain(str(who))} (1 is usual)"), f"{value:.2f}")
    Console().print(table)


def _browse(session: Session, args: argparse.Namespace) -> int:
    """Serve optuna-dashboard until it is interrupted; then note what was clicked."""
    from rlhf_tune.study.history import is_preferential
    from rlhf_tune.study.trial_cards import publish_cards

    dashboard = require("optuna_dashboard", extra="feedback")
    if not is_preferential(session.study):
        raise InvalidInputError(
            f"`--browser` needs a preferential study, but {args.study!r} is none; make one by "
            "optuna_dashboard.preferential.create_study(sampler=DQNSampler(), ...), or compare "
            "here without `--browser`"
        )
    over = threading.Event()

    def publish() -> None:  # trials go on while people look at them
        while not over.is_set():
            publish_cards(session.study, artifacts=args.artifacts)
            over.wait(_EVERY)

    cards = threading.Thread(target=publish, daemon=True)
    cards.start()
    print(f"open http://127.0.0.1:{args.port}/dashboard; Ctrl-C ends it", flush=True)
    try:
        with _server(_with_content(dashboard.wsgi(args.storage)), args.port) as server:
            server.serve_forever()
    except KeyboardInterrupt:
        print(file=sys.stderr)
    over.set()
    cards.join()
    session.synchronise()
    show_quality(session)
    return 0


def _with_content(app: Any) -> Any:
    """The page of optuna-dashboard 0.21 takes an answer without content for a failure."""

    def answer(environ: Any, start: Any) -> Any:
        empty = []

        def begin(status: str, headers: Any, *error: Any) -> Any:
            if not status.startswith("204"):
                return start(status, headers, *error)
            empty.append(status)
            return start("200 OK", [("Content-Type", "application/json")], *error)

        body = app(environ, begin)
        return [b"{}"] if empty else body

    return answer


def _server(app: Any, port: int) -> Any:
    """A thread for each connection: browsers open some ahead, for which one alone would wait."""
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

    class Server(ThreadingMixIn, WSGIServer):
        daemon_threads = True

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    try:
        return make_server("127.0.0.1", port, app, Server, Quiet)
    except OSError as exc:
        raise InvalidInputError(
            f"`--port` must be free, but {port} is not ({exc.strerror}); give another one"
        ) from exc
