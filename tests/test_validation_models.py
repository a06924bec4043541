"""`fimsym validate --model`: any network, from files, and what is refused."""

import gzip
import json
import pickle
import struct

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import fimsym
from fimsym.cli import main
from fimsym.errors import DomainError, ShapeError
from fimsym.validation.montecarlo import Derivatives
from fimsym.validation.output import Point, random_points

SOURCE = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = make()

    def forward(self, x):
        return self.layers(x), x

def dropping():
    return nn.Sequential(make(), nn.Dropout(0.5))
"""
COUNT = 12
LABELS = np.arange(COUNT) % 3


def idx(array):
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "nets_to_validate.py").write_text(SOURCE)
    inputs = np.random.default_rng(0).normal(size=(COUNT, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", inputs=inputs, labels=LABELS)
    np.save(tmp_path / "data.npy", inputs)
    table = np.column_stack([inputs, LABELS])
    np.savetxt(tmp_path / "labelled.csv", table, delimiter=",", header="a,b,c,d,label", comments="")
    np.savetxt(tmp_path / "bare.csv", inputs, delimiter=",")
    images = np.random.default_rng(1).integers(0, 256, (COUNT, 2, 2)).astype(np.uint8)
    (tmp_path / "images-idx3-ubyte").write_bytes(idx(images))
    (tmp_path / "images.idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    np.save(tmp_path / "images.npy", images / np.float32(255))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(*arguments, **changes):
    options = {"model": "nets_to_validate:make", "data": "data.npz", "family": "categorical",
               "samples": 2000, "inputs": 3, **changes}  # fmt: skip
    given = [part for k, v in options.items() if v is not None for part in (f"--{k}", str(v))]
    words = ["validate", *given, "--no-report", *arguments]
    return CliRunner().invoke(main, words)


def record(*arguments, **changes):
    shown = run("--json", *arguments, **changes)
    assert shown.exit_code == 0, shown.output
    return json.loads(shown.output)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def test_the_command_is_the_call_in_python(folder):
    found = record("--no-checkpoint")
    data = np.load("data.npz")
    model = network()
    before = {name: p.clone() for name, p in model.named_parameters()}
    expected = fimsym.validate_model(
        model, (data["inputs"], data["labels"]), "categorical", samples=2000, inputs=3,
        progress=False, name="nets_to_validate:make",
    )  # fmt: skip
    assert found == json.loads(json.dumps(expected.to_dict()))
    assert found["agrees"]
    (of_model,) = found["models"]
    assert {c["layer"] for c in of_model["comparisons"]} == {"1", "3"}
    assert "3 of 12 inputs, drawn at random" in of_model["quality"]
    assert of_model["kind"] == "network"
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32
        assert torch.equal(p, before[name])


@pytest.mark.parametrize("data", ["data.npy", "labelled.csv", "bare.csv"])
def test_every_kind_of_file_holds_the_same_inputs(folder, data):
    one, other = (record("--no-checkpoint", data=name) for name in ("data.npz", data))
    for a, b in zip(
        one["models"][0]["comparisons"], other["models"][0]["comparisons"], strict=True
    ):
        assert a["closed_form"] == pytest.approx(b["closed_form"], rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("data", ["images-idx3-ubyte", "images.idx3-ubyte.gz"])
def test_idx_files_hold_bytes_from_0_to_1(folder, data):
    one, other = (record("--no-checkpoint", data=name) for name in ("images.npy", data))
    assert one["models"][0]["comparisons"] == other["models"][0]["comparisons"]


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_are_loaded(folder, suffix):
    model = network()
    with torch.no_grad():
        model[1].weight.mul_(2)
    if suffix == "pt":
        torch.save(model.state_dict(), "weights.pt")
    else:
        save_file(model.state_dict(), "weights.safetensors")
    plain, loaded = (
        record("--no-checkpoint"),
        record("--no-checkpoint", weights=f"weights.{suffix}"),
    )
    first = [r["models"][0]["comparisons"][0]["closed_form"] for r in (plain, loaded)]
    assert first[0] != pytest.approx(first[1], rel=0.01)


def test_links_and_constants(folder):
    found = record("--no-checkpoint", "--constant", "sigma=0.5", family="gaussian", link="mean",
                   data="data.npy")  # fmt: skip
    (of_model,) = found["models"]
    assert (of_model["link"], of_model["constants"]) == ("mean", {"sigma": 0.5})


def test_every_parameter_s_numbers_are_written(folder):
    shown = run("--no-checkpoint", "-o", "out.safetensors", parameters=20)
    assert shown.exit_code == 0, shown.output
    with safe_open("out.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        text = json.loads(file.metadata()["fimsym"])
    assert text["agrees"]
    assert len(tensors) == 4 * 5 * 4
    start = "categorical/nets_to_validate:make"
    closed = tensors[f"{start}/closed_form/variance_score_squared/1.weight"]
    assert closed.shape == (5, 4)
    data = np.load("data.npz")["inputs"]
    chosen = fimsym.validate_model(
        network(), data, "categorical", samples=2000, inputs=3, progress=False
    )
    rows = chosen.models[0].description.quality.rpartition("rows ")[2].split(", ")
    analysis = fimsym.analyze(
        network().double(),
        data[[int(r) for r in rows]].astype(float),
        "categorical",
        progress=False,
    )
    tested = ~closed.isnan()
    assert 0 < tested.sum() < closed.numel()
    torch.testing.assert_close(closed[tested], analysis.variance_score_squared["1.weight"][tested])
    z, sampled, error = (
        tensors[f"{start}/{number}/variance_score_squared/1.weight"][tested]
        for number in ("z", "monte_carlo", "standard_error")
    )
    torch.testing.assert_close(z, (closed[tested] - sampled) / error)


class Evil:
    def __reduce__(self):
        return (open, ("planted", "w"))


BAD = [
    ({"model": "nets_to_validate:Pair"}, "must return one tensor"),
    ({"model": "nets_to_validate:mak"}, "Did you mean 'make'"),
    ({"data": "nan.csv"}, "rows 2, 5 are not, counted from 0"),
    ({"data": "text.csv"}, "row 3 is not"),
    ({"data": "outside.npz"}, "outside the support of categorical: rows 1, such as 3"),
    ({"data": "cut-idx3-ubyte"}, "says that it holds 12 × 2 × 2 numbers of 1 bytes; it holds 40"),
    ({"data": "data-idx3-ubyte"}, "it begins with 01 00 00 08"),
    ({"data": "missing.npz"}, "cannot read missing.npz"),
    ({"data": None}, "--model needs --data"),
    ({"family": None}, "--model needs --family"),
    ({"family": "categoricl"}, "Did you mean 'categorical'"),
    ({"family": "poisson", "data": "negative.npz"}, "outside the support of poisson: rows 1, 4"),
    ({"weights": "evil.pt"}, "cannot read tensors from evil.pt"),
    ({"weights": "other.pt"}, "do not fit the model"),
    ({"inputs": 13}, "between 1 and 12"),
    ({"inputs": 0}, "between 1 and 12"),
    ({"parameters": 0}, "positive integer"),
    ({"samples": 10}, "from 1,000"),
    ({"link": "probit"}, "not a link of categorical"),
    ({"constant": "sigma"}, "NAME=VALUE"),
    ({"constant": "seed=3"}, "'seed' is not a constant of categorical"),
    ({"constant": "sgma=3", "family": "gaussian"}, "Did you mean 'sigma'"),
    ({"output-samples": 2000}, "one network alone"),
    ({"points": "data.npz"}, "one network alone"),
    ({"relative-error": 0.01}, "expected one of them"),
    ({"output": "missing/out.safetensors"}, "no folder missing"),
    ({"junit": "missing/out.xml"}, "no folder missing"),
    ({"checkpoint": "missing/kept"}, "there is no folder missing"),
    ({"checkpoint": "data.npz"}, "is not a folder"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_mistakes_exit_with_2_and_no_traceback(folder, changes, message):
    inputs = np.load("data.npy")
    bad = inputs.copy()
    bad[[2, 5], 1] = np.nan
    np.savetxt("nan.csv", bad, delimiter=",", header="a,b,c,d", comments="")
    rows = ["1,2,3,4"] * 6
    rows[3] = "1,2,three,4"
    (folder / "text.csv").write_text("\n".join(rows))
    np.savez("outside.npz", inputs=inputs, labels=np.where(np.arange(COUNT) == 1, 3, LABELS))
    counts = np.ones((COUNT, 3))
    counts[[1, 4], 0] = -1, 0.5
    np.savez("negative.npz", inputs=inputs, labels=counts)
    content = (folder / "images-idx3-ubyte").read_bytes()
    (folder / "cut-idx3-ubyte").write_bytes(content[:-8])
    (folder / "data-idx3-ubyte").write_bytes(b"\x01" + content)
    torch.save({"0.weight": torch.ones(2, 2)}, "other.pt")
    (folder / "evil.pt").write_bytes(pickle.dumps(Evil()))
    shown = run(**changes)
    assert shown.exit_code == 2, shown.output
    assert message in shown.output
    assert "Traceback" not in shown.output
    assert not (folder / "planted").exists()
    assert not (folder / "fimsym-validation.checkpoint").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gaussian", "--model", "nets_to_validate:make"), "got gaussian too"),
        (("--all", "--model", "nets_to_validate:make"), "got --all too"),
        (("gaussian", "--data", "data.npz"), "--data goes with --model"),
        (("gaussian", "--constant", "sigma=2"), "--constant goes with --model"),
        (("gaussian", "--family", ""), "--family goes with --model"),
        (("--model", "", "--output-samples", "0"), "got --output-samples too"),
        (("gaussian", "--samples", "0", "--relative-error", "0.1"), "--samples gives it"),
        (("gaussian", "--points", "p.npz", "--samples", "2000"), "--samples is about networks"),
        (("gaussian", "--points", "p.npz", "--inputs", "16"), "--inputs is about networks"),
        (("gaussian", "--points", "p.npz", "--parameters", "9"), "--parameters is about networks"),
        (("gaussian", "poisson", "--points", "p.npz"), "goes with one family"),
        (("gaussian", "--points", "data.npz"), "expected arrays h, u and v"),
        (("gaussian", "--points", "flat.npz"), "have shapes"),
        (("poisson", "--points", "flat.npz"), "expected arrays h, u and v"),
        (("gaussian", "--relative-error", "2"), "--relative-error must be"),
        (("gaussian", "--samples", "2000", "--relative-error", "0.1"), "--samples gives it"),
    ],
)
def test_options_that_do_not_go_together(folder, arguments, message):
    np.savez("flat.npz", h=np.ones(2), u=np.ones(2), v=np.ones(2), sigma=1.0)
    shown = CliRunner().invoke(main, ["validate", *arguments, "--no-report", "--no-checkpoint"])
    assert shown.exit_code == 2, shown.output
    assert message in shown.output


def test_points_are_read_from_a_file(folder):
    spec = fimsym.family("gaussian")
    points = random_points(spec, 3)[:2]
    stacked = {name: np.stack([getattr(p.at, name) for p in points]) for name in "huv"}
    np.savez("points.npz", **stacked, sigma=[p.constants["sigma"] for p in points])
    shown = CliRunner().invoke(
        main, ["validate", "gaussian", "--points", "points.npz", "--output-samples", "20000",
               "--no-report", "--no-checkpoint", "--json"],
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    expected = fimsym.validate(spec, points=points, output_samples=20_000, progress=False)
    assert json.loads(shown.output) == json.loads(json.dumps(expected.to_dict()))


ONE = {"h": [[-0.5]], "u": [[[1.0]]], "v": [[[1.0]]]}


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("geometric", {"h": [[0.5]]}, "p.npz: point 0: h must satisfy h < 0; got h = 0.5"),
        ("geometric", {"h": [[np.nan]]}, "finite"),
        ("geometric", {"h": [["a"]]}, "p.npz: h must be numbers; got values of <U1"),
        ("geometric", {"v": [[[1j]]]}, "expected real numbers"),
        ("geometric", {"u": [[[np.inf]]]}, "point 0: u must be finite"),
        ("geometric", dict.fromkeys("uv", np.ones((1, 1, 0))), "at least one direction in u"),
        ("geometric", {"h": np.ones((0, 1)), "u": np.ones((0, 1, 1)), "v": np.ones((0, 1, 1))},
         "at least one point"),
        ("gaussian", {"sigma": [1.0, 2.0, 3.0]}, "sigma has shape [3]; expected one number"),
        ("gaussian", {"sigma": "wide"}, "p.npz: sigma must be numbers"),
        ("gaussian", {"sigma": -1.0}, "point 0: sigma must be a positive"),
        ("poisson", {"h": [[800.0]]}, "point 0: "),
        ("gaussian_mean_variance", {}, "at least 2 output(s)"),
    ],
)  # fmt: skip
def test_points_where_nothing_can_be_checked(folder, family, changes, message):
    np.savez("p.npz", **{**ONE, **changes})
    given = ["validate", family, "--points", "p.npz", "--no-report", "--no-checkpoint"]
    shown = CliRunner().invoke(main, given)
    assert shown.exit_code == 2, shown.output
    assert message in shown.output
    assert "Traceback" not in shown.output


def test_points_are_checked_in_python_too():
    h, u = torch.tensor([0.5]), torch.ones(1, 1)
    with pytest.raises(DomainError, match="point 0: h must satisfy h < 0"):
        fimsym.validate("geometric", points=[Point({}, Derivatives(h, u, u))], progress=False)
    with pytest.raises(DomainError, match="at least one point"):
        fimsym.validate("geometric", points=[], progress=False)


def test_a_model_in_training_mode_is_refused():
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    with pytest.raises(DomainError, match="training mode"):
        fimsym.validate_model(model, torch.randn(5, 4), "categorical", inputs=2, progress=False)


@pytest.mark.parametrize(
    ("family", "labels", "error", "message"),
    [
        ("gaussian", torch.tensor([[0.0, 1.0, torch.nan]] * 4), DomainError, "rows 0, 1, 2, 3"),
        ("gaussian", torch.zeros(4, 2), ShapeError, r"\['row', 3\]"),
        ("bernoulli", torch.tensor([[0.0, 1.0, 2.0]] * 4), DomainError, "outside the support"),
        ("multinomial", torch.tensor([[1.0, 1.0, 1.0]] * 4), DomainError, "outside the support"),
    ],
)
def test_labels_of_another_law_are_named(family, labels, error, message):
    model, inputs = nn.Linear(2, 3), torch.randn(4, 2)
    with pytest.raises(error, match=message):
        fimsym.validate_model(model, (inputs, labels), family, inputs=2, progress=False)


def test_labels_of_a_tabulated_law_are_named():
    rayleigh = fimsym.Family(
        name="rayleigh", log_partition="-log(-h)", sufficient_statistics=("y**2",),
        domain=("h < 0",), density=fimsym.Density("2 * y", "positive"),
        links=(fimsym.Link("log", ("o",), ("-exp(o)",)),),
    )  # fmt: skip
    model, inputs, labels = nn.Linear(2, 1), torch.randn(4, 2), torch.tensor([1.0, -1.0, 2.0, 0.5])
    with pytest.raises(DomainError, match="rows 1, such as"):
        fimsym.validate_model(model, (inputs, labels), rayleigh, "log", inputs=2, progress=False)
    labels = labels.abs()
    shown = fimsym.validate_model(
        model, (inputs, labels), rayleigh, "log", inputs=2, samples=2000, progress=False
    )
    assert shown.agrees


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens):
        return self.head(self.encoder(self.embedding(tokens)).mean(1))


def test_layers_of_every_kind_are_validated():
    """A convolution with normalisation, and attention over tokens."""
    torch.manual_seed(0)
    convolution = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GELU(), nn.Flatten(), nn.Linear(18, 3)
    ).eval()
    tokens = torch.randint(0, 7, (6, 5))
    for model, inputs in ((convolution, torch.randn(6, 1, 5, 5)), (Attention().eval(), tokens)):
        shown = fimsym.validate_model(
            model, inputs, "categorical", inputs=3, samples=50_000, parameters=60, progress=False
        )
        assert shown.agrees
        (of_model,) = shown.models
        assert "drawn at random" in of_model.description.untested[0]
        assert all(check.gap < 1e-9 for check in of_model.checks)
