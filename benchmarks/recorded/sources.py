"""The catalogue of data sets, and what is trained on each.

Networks that cannot learn a problem are left out of its recipes: they make no tuning task. A new
family must be entered in `tables/split.json` before it is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from benchmarks.recorded import data
from benchmarks.recorded import images as img
from benchmarks.recorded import sequences as seq
from benchmarks.recorded import synthetic as syn
from benchmarks.recorded.data import Source
from benchmarks.recorded.synthetic import Problem

_PLAIN = ("mlp64-sgd", "mlp64-adam", "mlp64-adamw", "mlp32x32-adam", "mlp32x32x32-adamw")
_DEEP = (*_PLAIN, "norm32x32-sgd")
_ANY = ("linear-sgd", "linear-adam", *_DEEP)
_CNN = ("cnn-sgd", "cnn-adam")
_MORE_CNN = (*_CNN, "cnn-adamw", "cnn2-adamw")
_ROWS = ("transformer-adam",)
_IMAGE = (*_ANY, *_MORE_CNN, *_ROWS)
_TRANSFORMER = ("transformer-adamw",)
_TRANSFORMERS = (*_TRANSFORMER, "transformer-sgd")


def _made(
    family: str,
    make: Callable[..., Problem],
    *args: object,
    n_train: int = 512,
    side: int | None = None,
    steps: int | None = None,
    gain: float = 1.0,
    recipes: tuple[str, ...] = _ANY,
    **options: object,
) -> Source:
    """A synthetic source; `args`, `options`, `side` and `steps` are the generator's."""
    options |= {key: n for key, n in (("side", side), ("steps", steps)) if n is not None}
    made = partial(make, *args, **options)
    return Source(family, made, n_train, side, steps, gain, recipes=recipes)


_classification = partial(_made, "classification", syn.from_sklearn, "make_classification")
_table = partial(Source, recipes=_ANY)
_digits = partial(Source, "digits", side=8, recipes=(*_ANY, *_CNN))
_german_credit = partial(Source, "german_credit", file="german_credit.csv", recipes=_ANY)
_adult = partial(Source, "adult", n_train=1024, file="adult.csv.gz", recipes=_ANY)
_mnist = partial(Source, "mnist", n_train=1024, side=14, file="mnist.npz")
_MOTIFS = ((0, 1, 2), (2, 1, 0), (3, 3, 1))

SOURCES: Mapping[str, Source] = {
    # Synthetic tables
    "classification_easy": _classification(class_sep=2.0),
    "classification_noisy": _classification(flip_y=0.3, n_informative=5),
    "classification_wide": _classification(n_features=100, n_informative=10, n_train=256),
    "classification_many": _classification(
        n_features=30, n_informative=20, n_redundant=5, n_classes=10, n_train=1024
    ),
    "classification_clusters": _classification(
        n_informative=8, n_classes=4, n_clusters_per_class=4, class_sep=1.5
    ),
    "classification_rare": _classification(weights=[0.9], n_informative=6, flip_y=0.05),
    "moons": _made("moons", syn.lifted_from_sklearn, "make_moons", 10, 0.15),
    "moons_noisy": _made("moons", syn.lifted_from_sklearn, "make_moons", 40, 0.3, n_train=1024),
    "circles": _made(
        "circles", syn.lifted_from_sklearn, "make_circles", 10, 0.1, factor=0.5, recipes=_DEEP
    ),
    "quantiles": _made(
        "quantiles",
        syn.from_sklearn,
        "make_gaussian_quantiles",
        n_features=8,
        n_classes=3,
        recipes=_DEEP,
    ),
    "quantiles_two": _made(
        "quantiles",
        syn.from_sklearn,
        "make_gaussian_quantiles",
        n_features=4,
        n_classes=2,
        recipes=_DEEP,
    ),
    "hastie": _made("hastie", syn.hastie, n_train=1024, recipes=_DEEP),
    "blobs": _made(
        "blobs", syn.from_sklearn, "make_blobs", n_features=10, centers=8, cluster_std=4.0
    ),
    "blobs_wide": _made(
        "blobs",
        syn.from_sklearn,
        "make_blobs",
        n_features=60,
        centers=5,
        cluster_std=14.0,
        n_train=256,
    ),
    "friedman": _made("friedman", syn.regression, "make_friedman1", 4, noise=1.0),
    "friedman_rational": _made("friedman", syn.regression, "make_friedman3", 3, noise=0.1),
    "linear_target": _made(
        "linear_target",
        syn.regression,
        "make_regression",
        5,
        n_features=25,
        noise=30.0,
        n_train=256,
    ),
    "swiss_roll": _made("swiss_roll", syn.regression, "make_swiss_roll", 6, noise=0.3),
    "teacher": _made("teacher", syn.teacher, dims=16, hidden=8, n_classes=3),
    "teacher_wide": _made("teacher", syn.teacher, dims=64, hidden=32, n_classes=6, n_train=1024),
    "fourier_slow": _made("fourier", syn.fourier, dims=6, frequency=0.3),
    "fourier_fast": _made(
        "fourier", syn.fourier, dims=3, frequency=1.0, n_train=1024, recipes=_DEEP
    ),
    "parity_two": _made("parity", syn.parity, bits=2, dims=12, recipes=_DEEP),
    "parity_three": _made("parity", syn.parity, bits=3, dims=10, n_train=1024, recipes=_DEEP),
    "checkerboard": _made(
        "checkerboard", syn.checkerboard, cells=3, dims=6, n_train=1024, recipes=_DEEP
    ),
    "waveform": _made("waveform", syn.waveform),
    "led": _made("led", syn.led, flip=0.1, irrelevant=10),
    "xor_clouds": _made("xor_clouds", syn.xor_clouds, dims=8, spread=0.4, recipes=_DEEP),
    "heavy_tails": _made("heavy_tails", syn.heavy_tails, dims=20, n_classes=3),
    "sparse_rule": _made("sparse_rule", syn.sparse_rule, dims=150, relevant=5),
    "spirals": _made(
        "spirals", syn.spirals, arms=2, turns=0.9, dims=5, n_train=1024, recipes=_DEEP
    ),
    "tree": _made("tree", syn.tree, depth=4, dims=10, n_classes=3),
    "motif": _made("motif", syn.motif, length=10, symbols=4, motifs=_MOTIFS),
    "polynomial": _made(
        "polynomial", syn.polynomial, dims=8, degree=2, terms=12, n_classes=3, recipes=_DEEP
    ),
    "polynomial_cubic": _made(
        "polynomial",
        syn.polynomial,
        dims=6,
        degree=3,
        terms=8,
        n_classes=2,
        n_train=1024,
        recipes=_DEEP,
    ),
    "categories": _made("categories", syn.categories, columns=8, levels=5, n_classes=4, noise=1.0),
    "ellipsoids": _made("ellipsoids", syn.ellipsoids, dims=8, shares=(0.6, 0.25, 0.1, 0.05)),
    "subspaces": _made(
        "subspaces", syn.subspaces, dims=10, rank=2, n_classes=3, noise=0.1, recipes=_DEEP
    ),
    "subspaces_many": _made(
        "subspaces", syn.subspaces, dims=24, rank=4, n_classes=6, noise=0.2, recipes=_DEEP
    ),
    "voronoi": _made("voronoi", syn.voronoi, dims=3, cells=16, n_classes=4),
    "products": _made("products", syn.products, pairs=3, dims=10, n_train=1024, recipes=_DEEP),
    "topics": _made("topics", syn.topics, words=60, n_classes=6, length=20.0),
    "topics_short": _made("topics", syn.topics, words=120, n_classes=10, length=16.0, n_train=256),
    "logit": _made("logit", syn.logit, dims=15, slope=2.0, offset=0.0),
    "logit_rare": _made("logit", syn.logit, dims=30, slope=4.0, offset=-4.0, n_train=256),
    "formula": _made("formula", syn.formula, terms=6, width=3, dims=14),
    "arm": _made("arm", syn.arm, joints=4),
    "loudest": _made("loudest", syn.loudest, groups=5, members=3, noise=0.5),
    "distances": _made("distances", syn.distances, dims=4, n_classes=3, recipes=_DEEP),
    "missing": _made("missing", syn.missing, dims=20, share=0.4, n_classes=3),
    "missing_wide": _made("missing", syn.missing, dims=40, share=0.5, n_classes=2),
    # Synthetic images
    "shapes": _made("shapes", img.shapes, side=9, noise=0.1, n_train=1024, recipes=_MORE_CNN),
    "textures": _made(
        "textures", img.textures, side=10, widths=(0.3, 0.8, 1.6), n_train=1024, recipes=_MORE_CNN
    ),
    "gratings": _made(
        "gratings",
        img.gratings,
        side=8,
        noise=0.3,
        n_train=1024,
        recipes=(*_DEEP, *_MORE_CNN, *_ROWS),
    ),
    "glyphs": _made("glyphs", img.glyphs, side=8, kinds=6, noise=0.2, recipes=_IMAGE),
    "glyphs_many": _made(
        "glyphs", img.glyphs, side=7, kinds=12, noise=0.2, recipes=(*_DEEP, *_MORE_CNN)
    ),
    "spots": _made("spots", img.spots, side=9, most=3, noise=0.05, recipes=(*_DEEP, *_MORE_CNN)),
    "lighting": _made(
        "lighting", img.lighting, side=8, noise=0.1, recipes=(*_DEEP, *_MORE_CNN, *_ROWS)
    ),
    "bars": _made("bars", img.bars, side=8, shown=0.3, noise=0.2, recipes=(*_DEEP, *_MORE_CNN)),
    # Synthetic sequences
    "markov": _made(
        "markov",
        seq.markov,
        steps=8,
        symbols=4,
        n_classes=3,
        concentration=0.5,
        recipes=(*_ANY, *_TRANSFORMERS),
    ),
    "markov_many": _made(
        "markov",
        seq.markov,
        steps=8,
        symbols=8,
        n_classes=6,
        concentration=0.3,
        recipes=(*_ANY, *_TRANSFORMER),
    ),
    "counting": _made(
        "counting", seq.counting, steps=8, symbols=4, n_classes=4, recipes=(*_ANY, *_TRANSFORMER)
    ),
    "marked": _made("marked", seq.marked, steps=8, symbols=4, recipes=(*_DEEP, *_TRANSFORMER)),
    "adding": _made("adding", seq.adding, steps=6, n_classes=3, recipes=(*_DEEP, *_TRANSFORMERS)),
    "events": _made(
        "events", seq.events, steps=8, channels=3, noise=0.25, recipes=(*_ANY, *_TRANSFORMER)
    ),
    "autoregressive": _made(
        "autoregressive",
        seq.autoregressive,
        steps=8,
        coefficients=((0.9, 0.0), (-0.7, 0.0), (0.3, -0.8), (0.0, 0.0)),
        recipes=(*_DEEP, *_TRANSFORMER),
    ),
    "tones": _made(
        "tones",
        seq.tones,
        steps=8,
        frequencies=(0.1, 0.18, 0.27),
        noise=0.3,
        recipes=(*_DEEP, *_TRANSFORMERS),
    ),
    "tones_noisy": _made(
        "tones",
        seq.tones,
        steps=8,
        frequencies=(0.08, 0.2),
        noise=1.0,
        recipes=_DEEP,
    ),
    "orbits": _made("orbits", seq.orbits, steps=8, noise=0.3, recipes=(*_DEEP, *_TRANSFORMER)),
    "spikes": _made(
        "spikes",
        seq.spikes,
        steps=8,
        channels=4,
        n_classes=5,
        contrast=0.4,
        recipes=(*_ANY, *_TRANSFORMERS),
    ),
    "trends": _made("trends", seq.trends, steps=8, noise=0.8, recipes=(*_ANY, *_TRANSFORMERS)),
    "majority": _made("majority", seq.majority, steps=8, symbols=4, recipes=(*_ANY, *_TRANSFORMER)),
    "brackets": _made(
        "brackets", seq.brackets, steps=10, n_classes=2, recipes=(*_ANY, *_TRANSFORMERS)
    ),
    "chirps": _made("chirps", seq.chirps, steps=8, noise=0.3, recipes=(*_DEEP, *_TRANSFORMERS)),
    "walks": _made(
        "walks", seq.walks, steps=8, persistence=(0.15, 0.5, 0.85), recipes=(*_DEEP, *_TRANSFORMERS)
    ),
    # The same with other inputs, labels or numbers of samples
    "classification_unscaled": _classification(class_sep=1.0, n_informative=6, gain=10.0),
    "friedman_faint": _made("friedman", syn.regression, "make_friedman1", 4, noise=1.0, gain=0.1),
    "teacher_mislabelled": _made(
        "teacher", data.mislabelled, partial(syn.teacher, dims=16, hidden=8, n_classes=3), 0.2
    ),
    "hastie_unscaled": _made(
        "hastie",
        syn.hastie,
        n_train=1024,
        gain=5.0,
        recipes=_PLAIN,
    ),
    "heavy_tails_faint": _made(
        "heavy_tails", syn.heavy_tails, dims=20, n_classes=3, n_train=128, gain=0.2
    ),
    "waveform_steps": Source("waveform", syn.waveform, steps=7, recipes=_TRANSFORMER),
    "tree_unscaled": _made("tree", syn.tree, depth=4, dims=10, n_classes=3, gain=10.0),
    "motif_steps": Source(
        "motif",
        partial(syn.motif, length=8, symbols=4, motifs=_MOTIFS),
        steps=8,
        recipes=_TRANSFORMER,
    ),
    # Embedded in scikit-learn
    "photos": Source("photos", data.photos, side=8, recipes=_IMAGE),
    "wine": _table("wine", partial(data.embedded, "load_wine")),
    "wine_unscaled": _table("wine", partial(data.embedded, "load_wine"), gain=10.0),
    "iris": _table("iris", partial(data.embedded, "load_iris")),
    "iris_faint": _table("iris", partial(data.embedded, "load_iris"), gain=0.1),
    "diabetes": _table("diabetes", data.diabetes),
    "diabetes_faint": _table("diabetes", data.diabetes, gain=0.1),
    "breast_cancer": _table("breast_cancer", partial(data.embedded, "load_breast_cancer")),
    "breast_cancer_unscaled": _table(
        "breast_cancer", partial(data.embedded, "load_breast_cancer"), gain=10.0
    ),
    "digits": _digits(partial(data.embedded, "load_digits"), n_train=1024),
    "digits_even": _digits(partial(data.embedded, "load_digits", data.parity), recipes=_IMAGE),
    "digits_upper": _digits(partial(data.embedded, "load_digits", data.upper_half)),
    "digits_few": Source(
        "digits", partial(data.embedded, "load_digits"), n_train=256, side=8, recipes=_ANY
    ),
    # In files of the user's
    "german_credit": _german_credit(partial(data.table, label="class-label")),
    "german_credit_mislabelled": _german_credit(
        partial(data.mislabelled, partial(data.table, label="class-label"), 0.1)
    ),
    "loanapp": _table(
        "loanapp",
        # `action` and `reject` encode the outcome, `rownames` numbers the rows.
        partial(data.table, label="approve", drop=("action", "reject", "rownames")),
        file="loanapp.csv",
    ),
    # `id` is the person.
    "yogurt": _table(
        "yogurt", partial(data.table, label="choice", drop=("id", "rownames")), file="yogurt.csv"
    ),
    "adult": _adult(partial(data.table, label="income-per-year")),
    "adult_mislabelled": _adult(
        partial(data.mislabelled, partial(data.table, label="income-per-year"), 0.1)
    ),
    "mnist": _mnist(data.mnist, recipes=(*_ANY, *_CNN)),
    "mnist_even": _mnist(partial(data.mnist, relabel=data.parity), recipes=_ANY),
}
