"""Attributes and notes as the real optuna-dashboard draws them, in a headless Chromium."""

import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from browsers import answers, chromium, free_port

from rlhf_tune import DQNSampler, dashboard_attributes
from rlhf_tune.cli.main import main
from tests.study.bowl import with_constraint

SHOT = os.environ.get("RLHF_TUNE_DASHBOARD_SCREENSHOT")  # where docs/dashboard.png comes from


@pytest.mark.slow
def test_the_dashboard_shows_recommendation_moves_and_constraints(tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url, port = f"sqlite:///{tmp_path / 'study.db'}", free_port()
    s = optuna.create_study(storage=url, study_name="robust", sampler=DQNSampler(seed=0))
    s.optimize(dashboard_attributes(with_constraint), n_trials=12)
    s.enqueue_trial({"lr": 1e-2, "batch_size": 128})  # the optimum, which is unsafe
    s.optimize(dashboard_attributes(with_constraint), n_trials=1)
    assert main(["note", "--study", "robust", "--storage", url]) == 0
    words = [sys.executable, "-c", "from optuna_dashboard._cli import main; main()"]
    words += [url, "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with chromium(tmp_path) as page:
            root = f"http://127.0.0.1:{port}/dashboard"
            answers(f"{root}/")
            page.open(f"{root}/studies/{s._study_id}")
            page.wait_for("return document.body.innerText.includes('recommended')")
            assert "Best Trial (number=12)" in page.text()  # the defect that the note states
            page.open(f"{root}/studies/{s._study_id}/trials?numbers=5")
            page.wait_for("return document.body.innerText.includes('p_safe')")
            page.open(f"{root}/studies/{s._study_id}/note")
            page.wait_for("return document.body.innerText.includes('violates one')")
            shown = page.text()
            assert f"Recommended: trial {s.user_attrs['recommended']['trial']}" in shown
            assert "constraint robustness" in shown
            if SHOT:
                time.sleep(2)  # until all is drawn
                page.screenshot(Path(SHOT))
    finally:
        server.terminate()
        server.wait(30)
