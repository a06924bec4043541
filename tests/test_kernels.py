"""Which kernels a model is carried out with, whatever a caller has set."""

import contextlib
import types

import pytest
import torch
from torch import nn
from torch.nn import functional

import fimsym
from fimsym.engine import graph as graphs
from fimsym.engine import kernels, memory
from tests.networks import build, flat, inputs, mlp

GPU = torch.device("cuda")


def settings():
    """Return everything about precision that torch can be asked for."""
    backends = torch.backends
    own = {"cuda": ("matmul",), "cudnn": ("conv", "rnn"), "mkldnn": ("matmul", "conv", "rnn")}
    found = {
        f"{library}.{name}": getattr(getattr(backends, library), name).fp32_precision
        for library, names in own.items()
        for name in names
        if hasattr(backends.cuda.matmul, "fp32_precision")
    }
    for name, read in {
        "products": torch.get_float32_matmul_precision,
        "convolutions": lambda: backends.cudnn.allow_tf32,
        "attention": backends.mha.get_fastpath_enabled,
        "autocast": lambda: torch.is_autocast_enabled("cpu"),
    }.items():
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "contradiction"
    return found


class Watched(nn.Module):
    """Notes the settings that it runs with."""

    def __init__(self):
        super().__init__()
        self.inner, self.seen = mlp(4, 6, 3), []

    def forward(self, x):
        self.seen.append(settings())
        return self.inner(x)


CHANGES = {
    "nothing": lambda: None,
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "tf32 in products": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "no tf32 in convolutions": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "bfloat16 in products": lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
    "one of two": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
}


@pytest.fixture
def restored():
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for place, value in (
        (torch.backends.cuda.matmul, "none"),
        (torch.backends.cudnn.conv, "tf32"),
        (torch.backends.cudnn.rnn, "tf32"),
        (torch.backends.mkldnn.matmul, "none"),
    ):
        place.fp32_precision = value


def test_what_follows_the_library_still_does_afterwards():
    place = torch.backends.mkldnn.matmul
    torch.backends.mkldnn.fp32_precision = "tf32"
    try:
        with kernels.exact_kernels():
            assert place.fp32_precision == "ieee"
        assert place.fp32_precision == "tf32"
        torch.backends.mkldnn.fp32_precision = "ieee"
        assert place.fp32_precision == "ieee"
    finally:
        torch.backends.mkldnn.fp32_precision = "none"


def test_calls_that_overlap_leave_what_the_first_has_found():
    before, one, other = settings(), contextlib.ExitStack(), contextlib.ExitStack()
    one.enter_context(kernels.exact_kernels())
    within = settings()
    other.enter_context(kernels.exact_kernels())
    one.close()
    assert settings() == within != before
    other.close()
    assert settings() == before


def test_settings_that_may_not_be_changed_globally_are_changed(monkeypatch):
    before = settings()
    flags = torch.backends.disable_global_flags.__globals__
    monkeypatch.setitem(flags, "__allow_nonbracketed_mutation_flag", False)
    with pytest.raises(RuntimeError, match="disable_global_flags"):
        torch.backends.cudnn.allow_tf32 = False
    with kernels.exact_kernels():
        assert not torch.backends.cudnn.allow_tf32
    assert settings() == before


def test_settings_are_put_back_after_an_error():
    before = settings()
    with pytest.raises(ValueError, match="wrong"), kernels.exact_kernels():
        raise ValueError("wrong")
    assert settings() == before


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("change", CHANGES)
def test_every_digit_is_kept_whatever_a_caller_has_set(change):
    CHANGES[change]()
    before, model = settings(), build(Watched)
    fimsym.analyze(model, inputs(5, 4), "categorical", quantities="all")
    assert settings() == before
    for seen in model.seen:
        assert {value for name, value in seen.items() if "." in name} == {"ieee"}
        assert not seen["attention"]
        assert seen["products"] == "highest" or before["products"] == "contradiction"
        assert seen["convolutions"] is False or before["convolutions"] == "contradiction"


def test_a_callers_autocast_is_switched_off_meanwhile():
    model = build(lambda: mlp(4, 6, 3)).float()
    data = inputs(5, 4).float()
    plain = fimsym.analyze(model, data, "categorical", quantities="all")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = fimsym.analyze(model, data, "categorical", quantities="all")
        assert torch.is_autocast_enabled("cpu")
    for name, value in plain.fisher.items():
        assert torch.equal(value, within.fisher[name])


@pytest.mark.usefixtures("restored")
def test_evaluators_run_where_torchs_settings_contradict_each_other():
    module = fimsym.evaluator("categorical")
    h, u = torch.randn(10), torch.randn(10, 5000)
    plain = module.fisher(h, u)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.testing.assert_close(module.fisher(h, u), plain)


class Spy(torch.overrides.TorchFunctionMode):
    """Notes what is called, and whether cuDNN may carry it out."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen[func.__name__] = torch.backends.cudnn.enabled
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.GRU, "gru"),
        (nn.LSTM, "lstm"),
        (nn.RNN, "rnn_tanh"),
        (lambda *sizes: nn.RNN(*sizes, nonlinearity="relu"), "rnn_relu"),
    ],
)
def test_recurrent_layers_on_a_gpu_are_not_left_to_cudnn(layer, name):
    with Spy() as spy, kernels.Differentiable(GPU):
        layer(4, 3)(inputs(2, 5, 4).float())
        nn.Linear(4, 3)(inputs(2, 4).float())
    assert spy.seen[name] is False
    assert spy.seen["linear"] is True
    assert torch.backends.cudnn.enabled


def test_parameters_on_a_gpu_are_not_moved_to_where_cudnn_wants_them():
    weights = [torch.randn(9, 4), torch.randn(9, 3), torch.randn(9), torch.randn(9)]
    call = (weights, 4, 4, 3, 3, 0, 1, True, False)
    with Spy() as spy, kernels.Differentiable(GPU):
        torch._cudnn_rnn_flatten_weight(*call)
    assert "_cudnn_rnn_flatten_weight" not in spy.seen


@pytest.mark.parametrize(
    "layer",
    [
        nn.RMSNorm(4),
        nn.RMSNorm((3, 4), eps=1e-3),
        nn.RMSNorm(4, elementwise_affine=False),
    ],
)
def test_root_mean_squares_on_a_gpu_are_taken_step_by_step(layer):
    x = inputs(5, 3, 4)
    layer = layer.double()
    with Spy() as spy, kernels.Differentiable(GPU):
        found = layer(x)
        again = functional.rms_norm(x, layer.normalized_shape, layer.weight, layer.eps)
    assert "rms_norm" not in spy.seen
    torch.testing.assert_close(found, layer(x))
    torch.testing.assert_close(again, layer(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
def test_root_mean_squares_have_the_digits_that_torch_gives_them(dtype, scale):
    x = (scale * inputs(4, 8)).to(dtype)
    with kernels.Differentiable(GPU):
        found = functional.rms_norm(x, (8,))
    assert found.dtype == dtype
    torch.testing.assert_close(found, functional.rms_norm(x, (8,)))


def test_a_processor_has_torchs_own_kernels():
    with Spy() as spy, kernels.Differentiable(torch.device("cpu")):
        nn.RMSNorm(4)(torch.ones(2, 4))
    assert "rms_norm" in spy.seen


def test_batch_normalization_has_another_name_for_epsilon_in_cudnn():
    norm = nn.BatchNorm1d(3, eps=0.5).double().eval()
    norm.running_var.uniform_(0.5, 2.0)
    node = norm(inputs(4, 3)).grad_fn
    fields = {name: getattr(node, name) for name in dir(node) if name.startswith("_saved_")}
    fields["_saved_epsilon"] = fields.pop("_saved_eps")
    there = types.SimpleNamespace(**fields)
    rule = graphs._batch_norm
    ours, theirs = rule(node, 1, torch.Size([3])), rule(there, 1, torch.Size([3]))
    torch.testing.assert_close(ours.factor, theirs.factor)


def test_a_gpu_is_given_more_at_a_time(monkeypatch):
    assert memory.at_a_time(100, torch.device("cpu")) == 100
    assert memory.at_a_time(100, GPU) > 1000
    monkeypatch.setattr(memory, "_free", lambda device: 80 * 10**9)
    assert memory.budget(None, torch.device("cpu")) == 10**9
    assert memory.budget(None, GPU) == 20 * 10**9


SCALED = {
    "addcmul": lambda x: torch.addcmul(x, x, x.sin(), value=0.5),
    "addcdiv": lambda x: torch.addcdiv(x, x, 2 + x.sin(), value=-0.5),
    "addmm": lambda x: torch.addmm(x, x @ x.T, x, beta=0.5, alpha=2),
    "addmm, no first": lambda x: torch.addmm(x / 0, x @ x.T, x, beta=0),
    "addmm, a method": lambda x: x.addmm(x @ x.T, x, alpha=0.3),
    "addmm, as it is": lambda x: torch.addmm(x, x @ x.T, x),
    "addmv": lambda x: torch.addmv(x[0], x.T, x[:, 0], alpha=0.5).expand_as(x),
    "addr": lambda x: torch.addr(x, x[:, 0], x[0], beta=0.3, alpha=3),
    "addbmm": lambda x: torch.addbmm(x, (x @ x.T)[None], x[None], beta=2),
    "baddbmm": lambda x: torch.baddbmm(x[None], (x @ x.T)[None], x[None], alpha=0.5)[0],
    "hardsigmoid": lambda x: functional.hardsigmoid(4 * x),
    "hardsigmoid in place": lambda x: functional.hardsigmoid(4 * x, inplace=True),
}


@pytest.mark.parametrize("name", SCALED)
def test_what_is_carried_out_otherwise_gives_the_same(name):
    x = inputs(5, 4)
    with kernels.Differentiable(torch.device("cpu")):
        found = SCALED[name](x)
    torch.testing.assert_close(found, SCALED[name](x))


class Scaling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        self.w = nn.Parameter(torch.randn(4))

    def forward(self, x):
        return self.last(self.function(self.first(x), x, self.w).tanh())


@pytest.mark.parametrize("second", ["exact", "stochastic"])
@pytest.mark.parametrize(
    "function",
    [
        lambda z, x, w: torch.addcmul(z, x, w, value=0.5),
        lambda z, x, w: torch.addcdiv(z, x, 1 + w * w, value=0.5),
        lambda z, x, w: torch.addmm(z, z, w[:, None] * w, beta=0.5, alpha=2.0),
    ],
    ids=["addcmul", "addcdiv", "addmm"],
)
def test_scaled_sums_do_not_end_the_process_where_memory_is_counted(function, second):
    model, data = build(lambda: Scaling(function)), inputs(3, 4)
    given = {"family": "categorical", "quantities": "all", "progress": False}
    found = fimsym.analyze(model, data, second_derivative=second, **given)
    assert found.variance_negative_hessian["w"].any()


def test_hard_sigmoids_have_second_derivatives():
    def network(function):
        return build(lambda: nn.Sequential(nn.Linear(4, 5), function, nn.Linear(5, 3)))

    class Plain(nn.Module):
        def forward(self, x):
            return functional.relu6(x + 3) / 6

    given = {"family": "categorical", "quantities": "all", "progress": False}
    found, plain = (
        fimsym.analyze(network(function), 3 * inputs(9, 4), **given)
        for function in (nn.Hardsigmoid(), Plain())
    )
    for quantity, named in plain.values.items():
        torch.testing.assert_close(flat(found.values[quantity]), flat(named))
