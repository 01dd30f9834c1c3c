"""How layers are divided into groups, in both frameworks."""

import pytest

torch = pytest.importorskip("torch")

from rlhf_tune.errors import InvalidInputError, UnsupportedModelError
from rlhf_tune.fine_tuning import describe_groups
from rlhf_tune.fine_tuning.groups import Unit, divide, layers_of

CHAIN = [Unit("a", 4, 4), Unit("a_norm", 2, 2, "norm"), Unit("b", 4, 4), Unit("c", 4, 4)]


class Tied(torch.nn.Module):
    """A small transformer; the head has the weights of the embedding."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.positions = torch.nn.Parameter(torch.zeros(1, 5, 8))
        self.tokens = torch.nn.Embedding(11, 8)
        block = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.body = torch.nn.TransformerEncoder(block, 2)
        self.norm = torch.nn.LayerNorm(8)
        self.head = torch.nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.tokens.weight


def test_auto_is_stem_blocks_head_and_all() -> None:
    assert divide(CHAIN) == {
        "stem": ("a", "a_norm"),
        "blocks": ("b",),
        "head": ("c",),
        "all": ("a", "a_norm", "b", "c"),
    }


def test_few_layers_make_fewer_groups() -> None:
    assert divide(CHAIN[:1]) == {"all": ("a",)}
    assert divide(CHAIN[1:3]) == {"stem": ("a_norm",), "head": ("b",), "all": ("a_norm", "b")}


def test_a_number_makes_parts_of_neighbours() -> None:
    found = divide(CHAIN, 2)
    assert found == {"part1": ("a", "a_norm"), "part2": ("b", "c"), "all": found["all"]}
    with pytest.raises(InvalidInputError, match=r"1 <= groups <= 3 must hold.*groups=4"):
        divide(CHAIN, 4)


def test_names_patterns_and_mappings() -> None:
    assert divide(CHAIN, "a*") == {"a*": ("a", "a_norm")}
    assert divide(CHAIN, ["a", "c"]) == {"a": ("a",), "c": ("c",)}
    assert divide(CHAIN, {"ends": ["a", "c"]}) == {"ends": ("a", "c")}
    with pytest.raises(InvalidInputError, match="none is called 'd'; there are a, a_norm, b, c"):
        divide(CHAIN, ["d"])


@pytest.mark.parametrize("groups", [True, [], 1.5, None, ""])
def test_what_is_no_division_is_refused(groups: object) -> None:
    with pytest.raises(InvalidInputError, match="`groups` must be 'auto'"):
        divide(CHAIN, groups)  # type: ignore[arg-type]


def test_frozen_layers_take_no_part(capsys: pytest.CaptureFixture[str]) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(4)))
    model[0].requires_grad_(False)
    assert describe_groups(model) == {
        "stem": ("1",),
        "blocks": ("2",),
        "head": ("3",),
        "all": ("1", "2", "3"),
    }
    said = capsys.readouterr().out
    assert "(frozen)" in said
    assert "18" in said  # of all
    with pytest.raises(UnsupportedModelError, match="none that is not frozen"):
        describe_groups(model.requires_grad_(False))


def test_a_transformer_begins_with_its_embeddings() -> None:
    found = divide(layers_of(Tied(tied=False)).units)
    assert found["stem"] == ("positions", "tokens")
    assert found["head"] == ("head",)
    assert "norm" in found["blocks"]


def test_a_shared_weight_belongs_to_the_first_layer_that_has_it() -> None:
    units = layers_of(Tied(tied=True)).units
    assert "head" not in {unit.name for unit in units}
    assert sum(unit.size for unit in units) == sum(p.numel() for p in Tied(True).parameters())


def test_a_recurrent_network_with_and_without_names() -> None:
    class Recurrent(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = torch.nn.LSTM(4, 8, num_layers=2)
            self.out = torch.nn.Linear(8, 2)

    assert divide(layers_of(Recurrent()).units) == {
        "stem": ("rnn",),
        "head": ("out",),
        "all": ("rnn", "out"),
    }


def test_a_model_without_layers_is_divided_by_its_parameters() -> None:
    class Bare(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1, self.b1, self.w2 = (
                torch.nn.Parameter(torch.zeros(s)) for s in ((2, 3), (3,), (3, 4))
            )
            self.more = torch.nn.ParameterList([torch.zeros(4, 4), torch.zeros(4, 5)])

    assert divide(layers_of(Bare()).units) == {
        "stem": ("w1", "b1"),
        "blocks": ("w2", "more.0"),
        "head": ("more.1",),
        "all": ("w1", "b1", "w2", "more.0", "more.1"),
    }


def test_a_model_of_no_framework_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="a model of one of the frameworks"):
        describe_groups(object())


@pytest.mark.keras
def test_keras_models_of_several_kinds() -> None:
    keras = pytest.importorskip("keras")
    layers = keras.layers
    words = keras.Input((5,))
    inner = keras.Sequential([layers.Dense(6, name="one"), layers.Dense(6, name="two")], name="in")
    h = layers.LSTM(8, name="rnn")(layers.Embedding(10, 8, name="words")(words))
    model = keras.Model(words, layers.Dense(3, name="out")(inner(h)))
    assert divide(layers_of(model).units) == {
        "stem": ("words",),
        "blocks": ("rnn/lstm_cell", "in/one", "in/two"),
        "head": ("out",),
        "all": ("words", "rnn/lstm_cell", "in/one", "in/two", "out"),
    }
    assert divide(layers_of(model).units, {"body": ["in", "rnn"]})["body"][0] == "rnn/lstm_cell"
    with pytest.raises(InvalidInputError, match="must be built"):
        layers_of(keras.Sequential([layers.Dense(2)]))


@pytest.mark.keras
def test_a_keras_model_with_weights_of_its_own() -> None:
    keras = pytest.importorskip("keras")

    class Bare(keras.Model):  # type: ignore[misc, name-defined]
        def build(self, shape: object) -> None:
            self.w1 = self.add_weight(shape=(2, 3), name="w1")
            self.w2 = self.add_weight(shape=(3, 2), name="w2")

        def call(self, x: object) -> object:
            return x @ self.w1 @ self.w2

    model = Bare()
    model(keras.ops.zeros((1, 2)))
    assert [len(held) for held in divide(layers_of(model).units).values()] == [1, 1, 2]
