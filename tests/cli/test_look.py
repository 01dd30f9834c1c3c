"""`rlhf-tune recommend`, `explain`, `risk`, `doctor`: they look, and change nothing."""

import hashlib
import json
import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from rlhf_tune.cli import doctor
from rlhf_tune.cli.main import main
from tests.study.bowl import objective, with_constraint

N = 6


@pytest.fixture
def storage(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    sampler = optuna.samplers.RandomSampler(seed=1)
    made = optuna.create_study(study_name="bowl", storage=url, sampler=sampler)
    made.optimize(with_constraint, n_trials=N)
    return url


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = main(list(words))
    out, err = capsys.readouterr()
    return status, out, err


def test_recommend_shows_the_trial_and_why(
    storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = said(capsys, "recommend", "--storage", storage, "--study", "bowl")
    assert status == 0
    assert out.startswith("recommended: trial ")
    assert "robustness: cost" in out
    assert f"{N} trials at {N} distinct points" in out
    status, out, _ = said(capsys, "recommend", "--storage", storage, "--json")  # the only one
    found = json.loads(out)
    assert found["params"].keys() == {"lr", "batch_size"}
    assert found["costs"]["robustness"] <= 0
    assert found["summary"]["points"] == N


def test_explain_lists_candidates(
    storage: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    _, out, _ = said(capsys, "explain", "--storage", storage)
    _, all_, _ = said(capsys, "explain", "--storage", storage, "--all")
    _, found, _ = said(capsys, "explain", "--storage", storage, "--json")
    assert " more\n" in out
    assert " more\n" not in all_
    moves = json.loads(found)
    assert len(moves) > 20
    assert len(all_.splitlines()) == len(moves) + 3  # title, head, counts
    assert {"params", "q", "p_safe", "why"} <= moves[0].keys()


def test_risk_lists_trials_as_optuna_counts_them(
    storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = said(capsys, "risk", "--storage", storage, "--json")
    found = json.loads(out)
    assert [trial["number"] for trial in found["trials"]] == list(range(1, N))
    assert found["observed"] == sum(not trial["safe"] for trial in found["trials"])
    _, out, _ = said(capsys, "risk", "--storage", storage)
    assert f"{found['observed']} observed" in out


def test_a_study_without_a_feasible_trial_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.create_study(study_name="empty", storage=url)
    status, out, err = said(capsys, "recommend", "--storage", url)
    assert (status, out) == (1, "")
    assert "run the study first" in err
    status, out, _ = said(capsys, "explain", "--storage", url)
    assert status == 0
    assert "no trial is complete yet" in out
    assert "no risk was predicted" in said(capsys, "risk", "--storage", url)[1]


def test_a_role_can_be_said(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("explain", "--storage", storage, "--role")
    assert said(capsys, *words, "lr=learning_rate")[0] == 0
    status, _, err = said(capsys, *words, "lr")
    assert status == 2
    assert "must be NAME=ROLE" in err
    assert "a role must be one of" in said(capsys, *words, "lr=rate")[2]


@pytest.mark.parametrize(
    "words",
    [
        ("recommend",),
        ("explain",),
        ("risk",),
        ("compare", "--study", "bowl"),
        ("pretrain", "-o", "policy.safetensors"),
    ],
)
def test_a_misspelt_storage_is_said_and_never_made(
    words: tuple[str, ...],
    storage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command, *more = words
    status, out, err = said(capsys, command, "--storage", "sqlite:///stud.db", *more)
    assert (status, out) == (2, "")
    assert "no file stud.db; did you mean study.db?" in err
    assert [path.name for path in tmp_path.iterdir()] == ["study.db"]


def test_a_misspelt_study_is_said(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = said(capsys, "risk", "--storage", storage, "--study", "bwl")
    assert status == 2
    assert "did you mean 'bowl'?" in err


def test_of_several_studies_one_must_be_named(
    storage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    optuna.create_study(study_name="other", storage=storage)
    status, _, err = said(capsys, "risk", "--storage", storage)
    assert status == 2
    assert "the storage holds 'bowl', 'other'" in err


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("study", "must be the URL of an Optuna storage"),
        ("sqlite://", "is in memory alone"),
        ("sqlite:///{}/none/study.db", "no file"),
        ("sqlite:///{}/text.db", "cannot be read"),
        ("sqlite:///{}/other.db", "holds no studies"),
        ("nonsense://x", "cannot be read"),
    ],
)
def test_what_is_no_storage_is_refused_and_left_alone(
    url: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.db").write_text("no database" * 100)
    with sqlite3.connect(tmp_path / "other.db") as db:
        db.execute("CREATE TABLE mine (a)")
    db.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for command in ("recommend", "doctor"):
        status, _, err = said(capsys, command, "--storage", url.format(tmp_path), *_quick(command))
        assert status == (1 if command == "doctor" else 2)
        assert says in err or command == "doctor"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def _quick(command: str) -> list[str]:
    return ["--json"] if command == "doctor" else []


@pytest.fixture(autouse=True)
def _without_frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for devices imports TensorFlow, which takes longer than all of these tests."""
    monkeypatch.setattr(doctor, "devices", lambda: iter(()))


def test_a_password_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("psycopg")
    url = "postgresql+psycopg://ada:secret@127.0.0.1:1/none"
    status, out, err = said(capsys, "risk", "--storage", url)
    assert status == 2
    assert "ada:***@" in err
    status, more, _ = said(capsys, "doctor", "--storage", url)
    assert status == 1
    assert "WRONG" in more
    assert "secret" not in out + err + more


def test_looking_changes_nothing(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(storage.removeprefix("sqlite:///"))
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    for command in ("recommend", "explain", "risk", "doctor"):
        assert said(capsys, command, "--storage", storage)[0] == 0
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert [each.name for each in path.parent.iterdir()] == ["study.db"]


def test_any_folder_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a b#%41?c=d&e"
    folder.mkdir()
    monkeypatch.chdir(folder)
    optuna.create_study(storage="sqlite:///s.db").optimize(lambda t: 1.0, n_trials=1)
    status, out, _ = said(capsys, "recommend", "--storage", "sqlite:///s.db")
    assert status == 0
    assert out.startswith("recommended: trial 0")
    assert [each.name for each in tmp_path.rglob("*")] == [folder.name, "s.db"]


@pytest.mark.filterwarnings("ignore:JournalStorage is experimental")
def test_a_journal_is_a_storage_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    sampler = optuna.samplers.RandomSampler(seed=1)
    optuna.create_study(storage=journal, sampler=sampler).optimize(objective, n_trials=3)
    status, out, _ = said(capsys, "recommend", "--storage", str(tmp_path / "journal.log"))
    assert status == 0
    assert "3 trials at 3 distinct points" in out


def test_names_cannot_steer_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    name = "[red]\x1b[31m\u202etxt"
    made = optuna.create_study(study_name=name, storage=url)
    made.optimize(lambda t: t.suggest_float(name, 0, 1), n_trials=3)
    for command in ("recommend", "explain", "doctor"):
        _, out, err = said(capsys, command, "--storage", url)
        assert "[red]\\x1b[31m\\u202etxt" in out
        assert not {"\x1b", "\u202e"} & {*out, *err}


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("rlhf-tune 0.")


@pytest.mark.parametrize("command", ["recommend", "explain", "risk", "doctor"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert f"rlhf-tune {command} --storage sqlite:///study.db" in text
    assert "exit status" in text


def test_the_doctor_lists_what_is_there(storage: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "doctor", "--storage", storage)
    assert status == 0
    for part in ("optuna", "extras", "prior.safetensors", "sha256", "cores", "study bowl"):
        assert part in out
    assert out.endswith("nothing is wrong\n")
    parts = {each["part"] for each in json.loads(said(capsys, "doctor", "--json")[1])}
    assert parts == {"versions", "extras", "policies", "threads"}


def test_a_missing_extra_has_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    there = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: None if name == "matplotlib" else there(name)
    )
    gate = next(each for each in doctor.extras() if each.name == "gate")
    assert "missing: matplotlib" in gate.found
    assert gate.hint == "pip install 'rlhf-tune[gate]'"
    assert not gate.wrong  # nobody must have it


def test_an_old_library_of_the_core_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    there = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "4.1" if name == "optuna" else there(name))
    optuna_ = next(each for each in doctor.versions() if each.name == "optuna")
    assert optuna_.wrong
    assert "4.1, but >=5.0 is needed" in optuna_.found
    assert optuna_.hint == "pip install 'optuna>=5.0'"


def test_a_broken_policy_file_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prior.safetensors").write_bytes(b"cut short")
    monkeypatch.setattr("rlhf_tune.tensors.SHIPPED", tmp_path / "prior.safetensors")
    (found,) = doctor.policies()
    assert found.wrong
    assert "cannot be read" in found.found


def test_a_server_has_a_hint_for_workers() -> None:
    hint = doctor._hint("postgresql+psycopg://db/x")
    assert "heartbeat_interval" in hint
    assert "pool_pre_ping" in hint
    assert "server" in doctor._hint("sqlite:///x.db")
