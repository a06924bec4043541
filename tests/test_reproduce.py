"""The figures of the paper: their numbers against enumeration and quadrature, their files."""

import copy
import csv
import gzip
import io
import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch.func import functional_call, hessian, jacrev

import fimsym
from fimsym.cli import main
from fimsym.datasets.mnist import Digits, load_digits
from fimsym.reproduce import figure_1, figure_2, mnist, toys
from tests.tolerances import ENUMERATION

TOY = toys.Settings(epochs=3, training=8, held_out=20)
NETWORK = mnist.Settings(epochs=2, hidden=(5, 4, 3), batch=8, measured=6)


@pytest.fixture(scope="module")
def digits():
    rng = np.random.default_rng(0)
    images = rng.random((48, 9)).astype(np.float32)
    labels = rng.integers(10, size=48)
    return Digits(images[:40], labels[:40], images[40:], labels[40:], "random images")


@pytest.fixture(scope="module")
def packaged():
    return load_digits()


def labels_with_weights(task, mean):
    """Return every label of one input and its probability, exactly or by quadrature."""
    if task == "classification":
        return np.array([0.0, 1.0]), np.array([1 - mean, mean])
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    return mean + nodes, weights / weights.sum()


def pooled(task, toy, theta):
    """Return Î₁ and Î₂ from one random input with one label, [outcome, 2], and weights."""
    first, second, weights = [], [], []
    for x in toy.inputs.numpy():
        h = float(x @ theta.numpy())
        mean = h if task == "regression" else 1 / (1 + np.exp(-h))
        curvature = 1.0 if task == "regression" else mean * (1 - mean)
        labels, chances = labels_with_weights(task, mean)
        first += [((y - mean) * x) ** 2 for y in labels]
        second += [curvature * x**2 for _ in labels]
        weights += list(chances / len(toy.inputs))
    return np.array(first), np.array(second), np.array(weights)


@pytest.mark.parametrize("task", toys.TOYS)
def test_variances_of_the_toys_are_those_of_all_inputs_and_labels(task):
    toy = toys.TOYS[task](3, TOY)
    first, second, weights = pooled(task, toy, toy.start)
    found = toy.variances(toy.start, inputs=4)
    means = weights @ first
    np.testing.assert_allclose(toy.fisher(toy.start), means, rtol=1e-12)
    np.testing.assert_allclose(weights @ second, means, rtol=1e-12)
    for name, values in (("score_squared", first), ("negative_hessian", second)):
        expected = float((weights @ (values - means) ** 2).sum()) / 4
        assert found[name] == pytest.approx(expected, rel=1e-12)
    assert found["from_inputs"] == found["negative_hessian"] < found["score_squared"]


@pytest.mark.parametrize("task", toys.TOYS)
def test_estimates_of_the_toys_have_the_mean_and_variance_they_should(task):
    toy = toys.TOYS[task](0, TOY)
    torch.manual_seed(0)
    first, second, weights = pooled(task, toy, toy.start)
    drawn = 40_000
    found = toy.estimates(toy.start, torch.randint(len(toy.inputs), (drawn,)))
    for name, values in (("score_squared", first), ("negative_hessian", second)):
        mean = weights @ values
        error = np.sqrt(weights @ (values - mean) ** 2 / drawn)
        assert (np.abs(found[name].numpy() - mean) < 6 * error).all()


def test_a_step_is_the_gradient_over_the_estimate():
    toy = toys.regression(1, TOY)
    x, y = toy.inputs.numpy(), toy.labels.numpy()[:, 0]
    theta = toy.start.numpy()
    gradient = -x.T @ (y - x @ theta) / len(x)
    step = TOY.rate * gradient / ((x**2).mean(0) + TOY.damping)
    path = toys.descend(toy, "exact", TOY, 0)
    np.testing.assert_allclose(path[1], theta - step, rtol=1e-12)
    assert len(path) == TOY.epochs + 1
    assert torch.equal(path, toys.descend(toy, "exact", TOY, 7))
    random = toys.descend(toy, "score_squared", TOY, 0)
    assert torch.equal(random, toys.descend(toy, "score_squared", TOY, 0))
    assert not torch.equal(random, toys.descend(toy, "score_squared", TOY, 7))


def test_the_second_estimator_varies_less_on_the_toys():
    record = figure_1.measure(2, TOY, show_progress=False)
    for found in record.findings.values():
        assert found["variance_of_2_below_1"] == 1
        assert found["median_variance_ratio_1_over_2"] > 1
        assert found["largest_label_variance_of_2"] == 0
        assert found["path_length"].keys() == set(toys.ESTIMATORS)
    assert len(record.rows) == 2 * 2 * 3 * (TOY.epochs + 1)


def test_a_descent_that_diverges_is_refused():
    wild = toys.Settings(epochs=60, rate=1e9, training=8, held_out=20)
    with pytest.raises(fimsym.DomainError, match=r"regression by .* from seed 0 diverged"):
        figure_1.measure(1, wild, show_progress=False)


def enumerated(model, inputs):
    """Return I, V₁ and V₂ [3, param], mean over the inputs, by summing over the classes."""
    model = copy.deepcopy(model).double()
    names = dict(model.named_parameters())
    flat = torch.cat([p.detach().flatten() for p in names.values()])

    def log_probs(theta, x):
        parts = theta.split([p.numel() for p in names.values()])
        named = {n: part.view_as(p) for (n, p), part in zip(names.items(), parts, strict=True)}
        return functional_call(model, named, (x[None],))[0].log_softmax(0)

    total = torch.zeros(3, len(flat), dtype=torch.float64)
    for x in inputs:
        p = log_probs(flat, x).exp()
        first = jacrev(log_probs)(flat, x).square()
        second = -hessian(log_probs)(flat, x).diagonal(dim1=1, dim2=2)
        mean = p @ first
        total += torch.stack([mean, p @ (first - mean) ** 2, p @ (second - mean) ** 2])
    return total / len(inputs)


def by_layer(values, model):
    sizes = [
        sum(p.numel() for p in layer.parameters()) for layer in model if len([*layer.parameters()])
    ]
    return torch.stack([part.mean(1) for part in values.split(sizes, dim=1)])


def test_the_network_is_measured_exactly(digits):
    record = figure_2.measure(digits, 1, NETWORK, show_progress=False)
    inputs = mnist.measured(digits, NETWORK, 0)
    for epoch, model in enumerate(mnist.train(digits, NETWORK, 0)):
        expected = by_layer(enumerated(model, inputs), model)
        rows = [r for r in record.rows if r["epoch"] == epoch]
        for (layer, quantity), value in np.ndenumerate(expected.numpy()):
            (row,) = [
                r
                for r in rows
                if (r["layer"], r["quantity"]) == (layer + 1, figure_2.QUANTITIES[quantity])
            ]
            scale = float(expected[layer].max())
            assert row["mean"] == pytest.approx(value, rel=ENUMERATION, abs=1e-14 * scale)
            assert row["mean"] <= row["bound"]
            assert 0 <= row["largest_part_of_bound"] <= 1 + 1e-12
            if row["mean"]:
                assert row["log_ratio"] == pytest.approx(np.log(row["bound"] / row["mean"]))
            else:
                assert row["log_ratio"] is None
    assert len(record.rows) == 3 * 4 * 3
    assert record.findings["largest_variance_of_2_in_last_layer"] == 0


def test_relu_leaves_the_second_estimator_no_variance_and_sigmoid_does(digits):
    for activation, exact in (("relu", True), ("sigmoid", False), ("gelu", False)):
        settings = mnist.Settings(activation, 1, (5, 4, 3), 8, measured=6)
        record = figure_2.measure(digits, 1, settings, show_progress=False)
        hidden = [
            row["mean"]
            for row in record.rows
            if row["quantity"] == "variance_negative_hessian" and row["layer"] < 4
        ]
        assert all(value == 0 for value in hidden) == exact
        (last,) = [v for v in record.findings["layers"] if v["layer"] == 4]
        assert last["log_ratio_of_bound"]["variance_negative_hessian"] is None


def test_training_learns_real_digits(packaged):
    assert packaged.images.shape == (4000, 784)
    assert packaged.held_out.shape == (1000, 784)
    assert np.bincount(packaged.held_out_labels).tolist() == [100] * 10
    assert np.bincount(packaged.labels).tolist() == [400] * 10
    assert packaged.images.min() == 0
    assert packaged.images.max() == 1
    rows = {row.tobytes() for row in packaged.images} & {row.tobytes() for row in packaged.held_out}
    assert not rows
    settings = mnist.Settings("relu", epochs=1)
    *_, model = mnist.train(packaged, settings, 0)
    assert mnist.held_out_quality(model, packaged)["accuracy"] > 0.75


def run(*arguments):
    return CliRunner().invoke(main, ["reproduce", *map(str, arguments)])


def write_idx(path, array, sizes=None):
    header = bytes([0, 0, 8, array.ndim]) + np.array(sizes or array.shape, ">u4").tobytes()
    raw = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "mnist"
    place.mkdir()
    rng = np.random.default_rng(0)
    for part, suffix, count in (("train", "", 30), ("t10k", ".gz", 12)):
        images, labels = rng.integers(256, size=(count, 3, 2)), rng.integers(10, size=count)
        write_idx(place / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(place / f"{part}-labels.idx1-ubyte{suffix}", labels)
    return place


def test_figure_1_writes_pictures_and_numbers(tmp_path):
    output = tmp_path / "new" / "folder"
    done = run("figure-1", "--seeds", 2, "--epochs", 2, "--output", output)
    assert done.exit_code == 0, done.output
    assert "Î₂'s variance is below Î₁'s at 100% of the steps" in done.output
    names = {"figure-1", "figure-1-seeds"}
    expected = {f"{n}.{s}" for n in names for s in ("svg", "png")}
    assert {p.name for p in output.iterdir()} == expected | {"figure-1.csv", "figure-1.json"}
    record = json.loads((output / "figure-1.json").read_text())
    assert record["settings"]["seeds"] == [0, 1]
    assert {"torch", "numpy", "fimsym", "python"} <= record["versions"].keys()
    assert record["command"].startswith("fimsym ")
    table = list(csv.DictReader(io.StringIO((output / "figure-1.csv").read_text())))
    assert len(table) == len(record["rows"]) == 2 * 2 * 3 * 3
    assert [float(r["variance"]) for r in table] == [r["variance"] for r in record["rows"]]
    picture = (output / "figure-1.svg").read_bytes()
    assert b"fill: #ffffff" in picture  # opaque, for dark pages too
    again = run("figure-1", "--seeds", 2, "--epochs", 2, "--output", output)
    assert again.exit_code == 0
    assert (output / "figure-1.svg").read_bytes() == picture


def test_figure_2_reads_idx_files_and_prints_json(tmp_path, folder):
    given = ("--seeds", 1, "--epochs", 1, "--data", folder, "--output", tmp_path / "out")
    done = run("figure-2", "--activation", "relu", "--json", *given)
    assert done.exit_code == 0, done.output
    record = json.loads(done.output)
    assert record == json.loads((tmp_path / "out" / "figure-2-relu.json").read_text())
    assert (record["settings"]["images"], record["settings"]["held_out"]) == (30, 12)
    assert record["settings"]["activation"] == "relu"
    assert {row["log_ratio"] for row in record["rows"] if row["quantity"].endswith("hessian")} == {
        None
    }
    shown = run("figure-2", *given)
    assert shown.exit_code == 0
    assert re.search(r"layer 4: √V₂/√V₁ 0 at epoch 0, 0 at epoch 1; .*both are 0", shown.output)
    assert (tmp_path / "out" / "figure-2-sigmoid.png").stat().st_size > 10_000


def test_images_are_read_as_they_are(tmp_path, folder):
    images = np.arange(30 * 6).reshape(30, 3, 2) % 256
    write_idx(folder / "train-images-idx3-ubyte", images)
    found = load_digits(folder)
    np.testing.assert_array_equal(found.images * 255, images.reshape(30, 6))
    assert found.held_out.shape == (12, 6)


def break_files(folder, case):
    images, labels = folder / "train-images-idx3-ubyte", folder / "train-labels.idx1-ubyte"
    if case == "missing":
        images.unlink()
        (folder / "t10k-labels.idx1-ubyte.gz").unlink()
    elif case == "short":
        images.write_bytes(images.read_bytes()[:-1])
    elif case == "kind":
        images.write_bytes(labels.read_bytes())
    elif case == "empty":
        images.write_bytes(b"")
    elif case == "gzip":
        (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    elif case == "count":
        write_idx(labels, np.zeros(29))
    elif case == "class":
        write_idx(labels, np.full(30, 10))
    elif case == "size":
        write_idx(images, np.zeros((30, 4, 4)))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "train-images-idx3-ubyte, t10k-labels-idx1-ubyte are missing"),
        ("short", "says that it holds 30 × 3 × 2 numbers of 1 bytes; it holds 179"),
        ("kind", "begins with 00 00 08 03; it begins with 00 00 08 01"),
        ("empty", "it begins with nothing"),
        ("gzip", "cannot read"),
        ("count", "30 images in train-images-idx3-ubyte and 29 labels"),
        ("class", "expected labels 0 to 9"),
        ("size", "16 pixels in training images and 6 in test images"),
    ],
)
def test_data_that_is_wrong_is_named(tmp_path, folder, case, message):
    break_files(folder, case)
    done = run("figure-2", "--data", folder, "--output", tmp_path / "out")
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(figure_1, "measure", None)
    (tmp_path / "file").write_text("")
    done = run("figure-1", "--output", tmp_path / "file")
    assert (done.exit_code, "cannot make the folder" in done.output) == (2, True)
    (tmp_path / "out" / "figure-1.csv").mkdir(parents=True)
    done = run("figure-1", "--output", tmp_path / "out")
    assert (done.exit_code, "it is a folder" in done.output) == (2, True)
    assert run("figure-3").exit_code == 2
    assert run("figure-1", "--activation", "relu").exit_code == 2
    assert run("figure-2", "--activation", "step").exit_code == 2
    assert run("figure-1", "--seeds", 0).exit_code == 2
