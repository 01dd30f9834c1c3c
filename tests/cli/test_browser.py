"""optuna-dashboard for real: clicks in a headless Chromium reach the sampler and the log."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from browsers import DriverError, Page, answers, chromium, free_port

from rlhf_tune import DQNSampler
from rlhf_tune.feedback import JudgementLog
from rlhf_tune.study.preferences import OUTCOMES, make_preferential, reported

COMPARISONS = 5
SHOT = os.environ.get("RLHF_TUNE_SCREENSHOT")  # where docs/feedback.png comes from
optuna.logging.set_verbosity(optuna.logging.ERROR)


def add_trial(study: optuna.Study) -> None:
    """A wide network is more accurate, and slower: these people want it fast."""
    trial = study.ask()
    rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    width = trial.suggest_int("width", 8, 64)
    accuracy = 0.9 - 0.02 * abs(len(f"{rate:.0e}") - 5) - 0.1 / width
    trial.set_user_attr(OUTCOMES, {"accuracy": accuracy, "seconds": 0.5 * width})


@pytest.mark.slow
def test_five_clicks_change_what_is_proposed(heard: Any, tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    url, port = f"sqlite:///{tmp_path / 'study.db'}", free_port()
    study = optuna.create_study(storage=url, study_name="s", sampler=DQNSampler(seed=0))
    make_preferential(study)
    add_trial(study)
    add_trial(study)
    command = "from rlhf_tune.cli.main import main; raise SystemExit(main())"
    words = ["compare", "--study", "s", "--storage", url, "--browser", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-c", command, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        with chromium(tmp_path) as page:
            answers(f"http://127.0.0.1:{port}/dashboard/")
            page.open(f"http://127.0.0.1:{port}/dashboard/studies/{study._study_id}")
            for number in range(COMPARISONS):
                both = "c.length == 2 && c.every(t => t.includes('seconds'))"
                shown = page.wait_for(
                    f"{CARDS}; return {both} && c.some(t => t.includes('Trial {number + 1}')) && c"
                )
                if SHOT and number == COMPARISONS - 1:
                    time.sleep(3)  # until all is drawn
                    page.screenshot(Path(SHOT))
                slow = max(range(2), key=lambda k: float(shown[k].split("seconds")[1].split()[0]))
                click_until_it_counts(page, slow, study, number + 1)
                add_trial(study)
            assert "Failed" not in page.text()
        fast = study.sampler.recommend(study)
        assert fast["width"] == min(t.params["width"] for t in study.trials[: COMPARISONS + 1])
        blind = optuna.create_study(sampler=DQNSampler(seed=0))
        make_preferential(blind)
        blind.add_trials(study.trials)
        space = study.trials[0].distributions
        assert study.ask(space).params != blind.ask(space).params
    finally:
        server.send_signal(signal.SIGINT)
        _, said = server.communicate(timeout=60)
    assert server.returncode == 0, said.decode()
    clicked = JudgementLog(tmp_path / "s.judgements.jsonl").read()
    assert [j.annotator for j in clicked] == ["browser"] * COMPARISONS
    assert all(j.time.startswith("20") for j in clicked)


def click_until_it_counts(page: Page, which: int, study: optuna.Study, count: int) -> None:
    """The page sometimes misses a click while it draws; a person then clicks again."""
    for _ in range(10):
        button = page.script(f"return {BUTTONS}[{which}]")
        with contextlib.suppress(DriverError):  # it was drawn anew in between
            page.click(*button.values())
        end = time.monotonic() + 6
        while time.monotonic() < end:
            if len(reported(study)) == count:
                return
            time.sleep(0.1)
    raise AssertionError(page.text())


BUTTONS = "[...document.querySelectorAll('button')].filter(b => b.innerText == 'WORST')"
CARDS = f"const c = {BUTTONS}.map(b => b.parentElement.parentElement.innerText)"
