"""The gate's verdicts and reports: the core, on NumPy models whose worst case is known."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gate_models import EPS, FRAGILE, ROBUST, SEX, X, Y, bias, worst_case

from rlhf_tune import frameworks, gate
from rlhf_tune.errors import InvalidInputError, TooFewSamplesError
from rlhf_tune.gate import digest, requirements, sweep
from rlhf_tune.gate.artifact import Identity
from rlhf_tune.gate.npz import Samples
from rlhf_tune.gate.report import GateReport, code_of, outcome_of, remark
from rlhf_tune.gate.requirements import Evidence
from rlhf_tune.gate.spec import Spec, of_values
from rlhf_tune.safety import Measurement, RobustAccuracy
from rlhf_tune.safety.intervals import proportion_interval
from rlhf_tune.safety.measurement import measured
from rlhf_tune.safety.non_inferiority import NonInferiority
from rlhf_tune.safety.shortfall import samples_needed

jsonschema = pytest.importorskip("jsonschema")
etree = pytest.importorskip("lxml.etree")

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"


class Linear:
    """Logits x @ w + b, and the exact signs of its gradient."""

    link: str | None = "logit"

    def __init__(self, w: Any) -> None:
        self.w, self.b = w, bias(w)

    def outputs(self, x: Any) -> Any:
        return x.astype(np.float64) @ self.w + self.b

    def direction(self, x: Any, own: Any, *, loss: str, link: str, **more: Any) -> Any:
        return np.sign(np.where(own[:, :1], 1, -1) * (self.w[:, 1] - self.w[:, 0]))


@contextmanager
def lend(model: Any) -> Iterator[Any]:
    yield model


@pytest.fixture(autouse=True)
def _adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = SimpleNamespace(classifier=lend, weights=lambda model: {"w": model.w, "b": model.b})
    entry = SimpleNamespace(load=lambda: adapter)
    monkeypatch.setattr(frameworks, "_adapters", lambda: {__name__: entry})


def robust(at_least: float = 0.8, **arguments: Any) -> RobustAccuracy:
    return RobustAccuracy(X, Y, eps=EPS, at_least=at_least, full=True, **arguments)


def floor(value: float, n: int, bound: float, **more: Any) -> Measurement:
    interval = proportion_interval(round(value * n), n, 0.95)
    return measured("m", value, bound, interval, n, kind="floor", **more)


# Verdicts


def test_a_robust_model_passes_and_a_fragile_one_is_refused() -> None:
    passed, refused = (gate.check(Linear(w), robust()) for w in (ROBUST, FRAGILE))
    assert (passed.verdict, passed.exit_code) == ("pass", 0)
    assert (refused.verdict, refused.exit_code) == ("refused", 1)
    assert passed.measurements[0].value == worst_case(ROBUST, bias(ROBUST)).mean() == 0.95
    assert passed.sha256 is None
    assert passed.weights_digest == digest.of_arrays({"b": bias(ROBUST), "w": ROBUST})


def test_masked_gradients_are_no_evidence() -> None:
    class Masked(Linear):
        def direction(self, x: Any, own: Any, *, loss: str, link: str, **more: Any) -> Any:
            return np.zeros_like(x)

    report = gate.check(Masked(FRAGILE), robust(0.2))
    assert (report.verdict, report.exit_code) == ("untrusted", 3)
    assert "masked gradients" in str(remark(report.measurements[0]))


def test_one_sure_failure_decides() -> None:
    unsure = replace(floor(0.9, 100, 0.5), name="a", trusted=False, cost=math.inf)
    failed = replace(floor(0.3, 100, 0.5), name="b")
    good = replace(floor(0.9, 100, 0.5), name="c")
    assert GateReport((good, unsure)).verdict == "untrusted"
    assert GateReport((good, unsure, failed)).verdict == "refused"
    assert GateReport((good,)).verdict == "pass"
    assert GateReport((good,), error="it broke").verdict == "untrusted"
    assert GateReport(()).verdict == "untrusted"


def test_too_little_evidence_is_told_from_evidence_that_contradicts_itself() -> None:
    little = floor(0.55, 100, 0.5)
    unsure = replace(floor(0.9, 100, 0.5), name="a", trusted=False, cost=math.inf)
    report = GateReport((little, floor(0.9, 100, 0.5)))
    assert (report.verdict, report.exit_code) == ("inconclusive", 3)
    assert GateReport((little, unsure)).verdict == "untrusted"
    assert GateReport((little, floor(0.3, 100, 0.5))).verdict == "refused"


def test_a_report_prints_as_a_table() -> None:
    measurements = (replace(floor(0.3, 100, 0.5), name="<b>a"), floor(0.55, 100, 0.5))
    report = GateReport(measurements, error="it | broke")
    assert str(report).splitlines()[0] == "untrusted: a model in memory"
    assert "error: it | broke" in str(report)
    assert "about" in str(report)  # so many samples would do
    assert "&lt;b&gt;a" in report._repr_html_()
    assert "<b>a" not in report._repr_html_()
    pytest.importorskip("pandas")
    assert list(report.to_dataframe()["verdict"]) == ["refused", "inconclusive"]


def test_too_little_evidence_is_an_outcome_of_its_own_and_says_how_much_is_needed() -> None:
    little = floor(0.55, 100, 0.5)
    assert outcome_of(little) == "inconclusive"
    assert "too few samples" in str(remark(little))
    needed = samples_needed(little)
    assert needed is not None
    assert outcome_of(floor(0.55, math.ceil(needed * 1.05 / 20) * 20, 0.5)) == "pass"
    assert outcome_of(floor(0.55, math.floor(needed * 0.9 / 20) * 20, 0.5)) == "inconclusive"


def test_where_all_samples_count_the_needed_number_is_exact() -> None:
    assert samples_needed(floor(1.0, 10, 0.9)) == 29
    assert outcome_of(floor(1.0, 29, 0.9)) == "pass"
    assert outcome_of(floor(1.0, 28, 0.9)) == "inconclusive"
    interval = proportion_interval(0, 10, 0.95)
    assert samples_needed(measured("m", 0.0, 0.1, interval, 10, kind="ceiling")) == 29


@pytest.mark.parametrize(("value", "bound"), [(0.5, 0.5), (0.4, 0.5)])
def test_no_number_of_samples_helps_at_or_below_the_bound(value: float, bound: float) -> None:
    assert samples_needed(floor(value, 100, bound)) is None


def test_a_measurement_without_trust_never_passes_whatever_its_cost() -> None:
    assert outcome_of(replace(floor(0.9, 100, 0.5), trusted=False)) == "untrusted"
    assert outcome_of(replace(floor(0.9, 100, 0.5), cost=math.nan)) == "untrusted"


def test_constraints_must_be_some_and_have_names_of_their_own() -> None:
    with pytest.raises(InvalidInputError, match="at least one constraint"):
        gate.check(Linear(ROBUST), [])
    with pytest.raises(InvalidInputError, match="different names"):
        gate.check(Linear(ROBUST), [robust(), robust()])
    with pytest.raises(InvalidInputError, match=r"a Measurement, but .* returned float"):
        gate.check(Linear(ROBUST), [lambda model: 0.0])  # type: ignore[list-item]


def refuses_to_be_measured(model: Any) -> Measurement:
    raise AssertionError("this came too late")


@pytest.mark.parametrize(
    ("constraints", "says"),
    [
        ([refuses_to_be_measured, 0.9], "returns a Measurement, .* but got float"),
        ([refuses_to_be_measured, None], "but got NoneType"),
        ({"robust": refuses_to_be_measured}, "one or a list of them, but got dict"),
        ("robust_accuracy", "but got str"),
        (None, "but got NoneType"),
        (0.9, "but got float"),
        ([], "at least one constraint"),
        (iter([]), "at least one constraint"),
    ],
)
def test_what_is_no_constraint_is_said_before_a_model_is_read(constraints: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        gate.check("nowhere.keras", constraints)


def test_equal_names_are_said_before_anything_is_measured() -> None:
    class Named:
        name = "robust"

        def __call__(self, model: Any) -> Measurement:
            raise AssertionError("this came too late")

    with pytest.raises(InvalidInputError, match=r"got \['robust'\] more than once; .* name="):
        gate.check(Linear(ROBUST), [Named(), Named()])


def test_constraints_may_come_one_by_one() -> None:
    report = gate.check(Linear(ROBUST), (robust(floor) for floor in [0.8]))
    assert report.verdict == "pass"


def test_assert_gate_is_for_tests() -> None:
    assert gate.assert_gate(Linear(ROBUST), robust()).verdict == "pass"
    with pytest.raises(AssertionError, match=r"robust_accuracy.*: refused: 0\.\d+ is below"):
        gate.assert_gate(Linear(FRAGILE), robust())


@pytest.mark.parametrize("exc", [ValueError("x"), MemoryError(), SystemExit(0), RecursionError()])
def test_what_nobody_foresaw_is_no_pass(exc: BaseException) -> None:
    assert code_of(exc) == 70


# What is measured


def samples(**groups: Any) -> Samples:
    return Samples(X, Y, groups, {"n": len(X)})


def asked(**values: Any) -> Spec:
    return of_values({"data": Path("d.npz"), "eps": EPS, "min_robust_accuracy": 0.8, **values})


def test_every_group_is_a_requirement() -> None:
    constraints = requirements.of_evidence(Evidence(asked(min_accuracy=0.85), samples(sex=SEX)))
    report = gate.check(Linear(ROBUST), constraints)
    values = {m.name: m for m in report.measurements}
    assert list(values) == [
        "robust_accuracy",
        "robust_accuracy[sex=female]",
        "robust_accuracy[sex=male]",
        "accuracy",
    ]
    women = SEX == "female"
    assert values["robust_accuracy[sex=female]"].n == women.sum()
    kept = worst_case(ROBUST, bias(ROBUST))
    assert values["robust_accuracy[sex=female]"].value == kept[women].mean()
    assert values["accuracy"].value == 0.95
    assert report.verdict == "pass"


def test_too_few_samples_in_a_group_are_said_before_anything_is_measured() -> None:
    rare = np.where(np.arange(200) < 10, "rare", "common")
    with pytest.raises(TooFewSamplesError, match=r"kind=rare\]: at least 14 samples .* are 10"):
        requirements.of_evidence(Evidence(asked(), samples(kind=rare)))


def test_the_sweep_takes_the_worst_attack_of_each_sample() -> None:
    radii = (0.0, 0.1, 0.5)
    points = sweep.sweep(Linear(FRAGILE), samples(), radii, ("noise", "fgsm"), bounds=(0.0, 1.0))
    truth = [worst_case(FRAGILE, bias(FRAGILE), eps=eps).mean() for eps in radii]
    assert [point.worst for point in points] == truth
    assert [point.eps for point in points] == list(radii)
    assert points[1].under["noise"] >= points[1].under["fgsm"] == points[1].worst


def test_the_sweep_takes_outputs_for_what_the_spec_says() -> None:
    arguments = {"bounds": (0.0, 1.0), "outputs": "probabilities"}
    with pytest.raises(InvalidInputError, match="probabilities"):  # these are logits
        sweep.sweep(Linear(ROBUST), samples(), (0.1,), ("fgsm",), **arguments)


def test_the_sweep_of_a_radius_by_feature_is_of_its_multiples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    radii: list[Any] = []

    class Recipe(SimpleNamespace):
        def survivors(self, evaluation: Any) -> Any:
            return evaluation.right, None

    def checked(name: str, x: Any, eps: Any, bounds: Any, *, seed: int) -> Any:
        radii.append(np.asarray(eps).tolist())
        return Recipe(name=name)

    monkeypatch.setattr(sweep.Attack, "checked", checked)
    points = sweep.sweep(
        Linear(ROBUST), samples(), (0.0, 0.5, 4.0), ("fgsm",),
        bounds=((0.0,) * 4, (1.0, 1.0, 0.5, 2.0)), by_feature=(0.2, 0.0, 0.2, 0.2),
    )  # fmt: skip
    assert [point.eps for point in points] == [0.0, 0.5, 4.0]
    assert radii == [[0, 0, 0, 0], [0.1, 0, 0.1, 0.1], [0.8, 0, 0.5, 0.8]]


def test_a_baseline_must_not_be_fallen_behind() -> None:
    half = Linear(ROBUST)
    half.b = half.b + np.float32([0.9, -0.9])  # some of class 1 fall under attack
    new = gate.check(half, NonInferiority(Linear(ROBUST), X, Y, eps=EPS, margin=0.05))
    old = worst_case(ROBUST, bias(ROBUST))
    now = worst_case(ROBUST, half.b)
    measurement = new.measurements[0]
    assert measurement.value == pytest.approx(now.mean() - old.mean())
    assert measurement.details["lost"] == (old & ~now).mean()
    same = gate.check(Linear(ROBUST), NonInferiority(Linear(ROBUST), X, Y, eps=EPS, margin=0.05))
    assert same.verdict == "pass"
    assert same.measurements[0].value == 0


def test_inputs_that_the_model_does_not_take_are_bad_data() -> None:
    with pytest.raises(
        InvalidInputError, match=r"samples are float32 of shape \(3,\), but: matmul"
    ):
        sweep.check_accepts(Linear(ROBUST), replace(samples(), x=X[:, :3]))
    with pytest.raises(InvalidInputError, match="below the model's 2 classes"):
        sweep.check_accepts(Linear(ROBUST), replace(samples(), y=Y + 1))


# Digests


def test_the_digest_of_arrays_is_of_names_types_shapes_and_numbers() -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    base = digest.of_arrays({"a": a, "b": a})
    assert digest.of_arrays({"b": a.copy(order="F"), "a": a.astype(">f4")}) == base
    others = [
        {"a": a, "c": a},
        {"a": a},
        {"a": a, "b": a.astype(np.float64)},
        {"a": a, "b": a.reshape(3, 2)},
        {"a": a, "b": -a},
    ]
    assert len({base, *map(digest.of_arrays, others)}) == 6


# Reports


def example() -> GateReport:
    """One of each outcome, with text that a format could stumble over."""
    details = {"clean_accuracy": 0.97, "pgd": 0.9}
    rows = (
        replace(floor(0.9, 500, 0.8, details=details), name="robust_accuracy"),
        replace(floor(0.55, 100, 0.6), name="robust_accuracy[a|b=<x> & \x01`_*]"),
        replace(floor(0.9, 100, 0.85, reasons=["masked gradients"]), name="accuracy"),
    )
    return GateReport(
        rows,
        Identity("model.keras", "a" * 64, 12345, "b" * 64, None),
        (sweep.Point(0.0, {"pgd": 1.0}, 1.0), sweep.Point(0.1, {"pgd": 0.9}, 0.9)),
        {"spec": asked().as_json()},
        created="2024-01-02T03:04:05Z",
    )


@pytest.fixture
def _fixed_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_tune.gate.report._versions", lambda: {"rlhf-tune": "0"})


@pytest.mark.usefixtures("_fixed_versions")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("report.json", lambda report: report.to_json()),
        ("report.xml", lambda report: report.to_junit()),
        ("report.md", lambda report: report.to_markdown("report.png")),
    ],
)
def test_reports_look_as_ever(name: str, text: Any) -> None:
    """To renew the files after a change on purpose, write what `text(example())` gives."""
    assert text(example()) == (GOLDEN / name).read_text("utf-8")


REPORTS = [
    example(),
    GateReport(error="the model 'm' is empty", error_code=4),
    GateReport((replace(floor(0.9, 100, 0.5), value=math.nan, interval=(math.nan, math.nan)),)),
    GateReport((floor(0.9, 500, 0.5),)),
]


@pytest.mark.parametrize("report", REPORTS, ids=["example", "error", "nan", "pass"])
def test_every_report_keeps_its_schemas(report: GateReport) -> None:
    validator = jsonschema.Draft202012Validator(gate.schema())
    validator.check_schema(gate.schema())
    document = json.loads(report.to_json())
    validator.validate(document)
    assert document["digest"] == digest.of_document(document)
    schema = etree.XMLSchema(etree.parse(HERE / "junit.xsd"))
    tree = etree.fromstring(report.to_junit().encode())
    schema.assertValid(tree)
    suite = tree.find("testsuite")
    wrong = len(tree.findall(".//failure")) + len(tree.findall(".//error"))
    assert (wrong == 0) == (report.verdict == "pass")
    assert int(suite.get("failures")) + int(suite.get("errors")) == wrong
    assert len(tree.findall(".//testcase")) == int(suite.get("tests"))


def test_the_schema_refuses_a_pass_that_is_none() -> None:
    document = json.loads(GateReport((floor(0.3, 100, 0.5),)).to_json())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "verdict": "pass"}, gate.schema())


def test_the_same_report_has_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    first, second = (gate.check(Linear(ROBUST), robust()) for _ in range(2))
    assert first.to_json() == second.to_json()
    assert first.created == "1970-01-01T00:00:00Z"
    assert first.to_junit() == second.to_junit()


def test_markdown_holds_no_markup_of_others() -> None:
    text = GateReport(
        (replace(floor(0.9, 500, 0.5), name="[x](http://a) <img> @team | WWW.b.org \ud800"),)
    ).to_markdown("a b.png")
    assert r"\[x\](http\://a) \<img\> @" in text
    assert "@team" not in text
    assert r"WWW\.b.org" in text
    assert "](a%20b.png)" in text
    text.encode()


@pytest.mark.parametrize("sign", ["\x1b[31m", "\x07", "\u202e", "\u2066", "\u200f", "\x9b", "\x00"])
def test_no_sign_that_steers_a_reader_s_screen_reaches_markdown(sign: str) -> None:
    row = replace(floor(0.3, 500, 0.5, reasons=[f"a{sign}b"]), name=f"robust[{sign}]")
    text = GateReport((row,), Identity(f"m{sign}.pt"), error=f"e{sign}").to_markdown()
    assert sign[:1] not in text
    assert all(line.isprintable() for line in text.splitlines())
