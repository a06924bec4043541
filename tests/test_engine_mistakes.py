"""Mistakes in calls of `analyze`: what was expected, what came, what to do."""

import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import fimsym
from fimsym.errors import DomainError, ShapeError, SpecError, UnsupportedError
from tests.networks import build, inputs, mlp


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.randn(x.shape[0], self.out_features, dtype=x.dtype)


class AcrossBatch(nn.Linear):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class Refusing(nn.Linear):
    def forward(self, x):
        raise ValueError("only squares")


class Tuple(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


class Flat(nn.Linear):
    def forward(self, x):
        return super().forward(x)[:, 0]


class Detached(nn.Linear):
    def forward(self, x):
        return super().forward(x).detach()


class RootOfZero(nn.Linear):
    def forward(self, x):
        return super().forward(x) + (self.weight * 0).abs().sqrt().sum()


class Listed(nn.Module):
    """Uses a weight once more, from a list."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.tied = [self.layer.weight]

    def forward(self, x):
        return torch.tanh(self.layer(x)) @ self.tied[0][:, :3]


def hooked():
    """Return a layer whose output a hook scales by a parameter that it holds."""
    model = mlp(4, 3)
    model.scale = scale = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
    model[0].register_forward_hook(lambda module, given, output: output * scale)
    return model


MISTAKES = {
    "listed": (Listed, inputs(2, 4), {}, UnsupportedError, "'layer.weight' through what is no"),
    "hooked": (hooked, inputs(2, 4), {}, UnsupportedError, "'scale' through what is no attribute"),
    "empty": (lambda: mlp(4, 3), inputs(0, 4), {}, ShapeError, "data is empty"),
    "empty iterable": (lambda: mlp(4, 3), [], {}, ShapeError, "data is empty"),
    "nan input": (
        lambda: mlp(4, 3),
        torch.cat([inputs(2, 4), torch.full((1, 4), math.nan).double()]),
        {},
        DomainError,
        "input 2 holds a NaN",
    ),
    "text": (lambda: mlp(4, 3), "digits.csv", {}, DomainError, "data must be a tensor"),
    "integers": (lambda: mlp(4, 3), torch.ones(2, 4).long(), {}, DomainError, "int64.*Convert"),
    "one class": (lambda: mlp(4, 1), inputs(2, 4), {}, ShapeError, "at least 2"),
    "label too large": (
        lambda: mlp(4, 3),
        (inputs(2, 4), torch.tensor([0, 3])),
        {},
        ShapeError,
        "label 3 of input 1",
    ),
    "targets of another width": (
        lambda: mlp(4, 3),
        (inputs(2, 4), inputs(2, 2)),
        {"family": "gaussian"},
        ShapeError,
        r"3 output\(s\), the labels have shape \[2, 2\]",
    ),
    "one image": (
        lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3)).double().eval(),
        inputs(2, 4),
        {},
        ShapeError,
        r"fails on a batch of shape \[2, 4\].*expected 4D input",
    ),
    "a layer of two inputs": (
        lambda: nn.Sequential(nn.Bilinear(4, 4, 3)).double(),
        inputs(2, 4),
        {},
        ShapeError,
        "fails on a batch of shape.*missing 1 required positional argument",
    ),
    "an error of the model's own": (
        lambda: Refusing(4, 3).double(),
        inputs(2, 4),
        {},
        ValueError,
        "^only squares$",
    ),
    "flat output": (lambda: Flat(4, 3), inputs(2, 4), {}, ShapeError, "unsqueeze"),
    "tuple output": (lambda: Tuple(4, 3), inputs(2, 4), {}, ShapeError, "tuple"),
    "unknown family": (
        lambda: mlp(4, 3),
        inputs(2, 4),
        {"family": "gausian"},
        SpecError,
        "Did you mean 'gaussian'",
    ),
    "no family": (lambda: mlp(4, 3), inputs(2, 4), {"family": None}, SpecError, "no family given"),
    "unknown quantity": (
        lambda: mlp(4, 3),
        inputs(2, 4),
        {"quantities": ("fischer",)},
        SpecError,
        "'fisher'",
    ),
    "unknown link": (
        lambda: mlp(4, 3),
        inputs(2, 4),
        {"link": "probit"},
        SpecError,
        "'probit' is not a link of categorical; its links: natural, logits",
    ),
    "unknown grouping": (
        lambda: mlp(4, 3),
        inputs(2, 4),
        {"groups": "layers"},
        SpecError,
        "'layer'",
    ),
    "unknown constant": (lambda: mlp(4, 3), inputs(2, 4), {"sigma": 1.0}, SpecError, "none"),
    "sigma": (
        lambda: mlp(4, 3),
        inputs(2, 4),
        {"family": "gaussian", "sigma": 0},
        DomainError,
        "sigma",
    ),
    "memory": (lambda: mlp(4, 3), inputs(2, 4), {"max_memory": "lots"}, SpecError, "2GB"),
    "random": (lambda: Noisy(4, 3), inputs(2, 4), {}, DomainError, "two forward passes"),
    "across the batch": (
        lambda: AcrossBatch(4, 3),
        inputs(2, 4),
        {},
        DomainError,
        "rest of the batch",
    ),
    "diverged": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Threshold(1e9, math.inf)),
        inputs(2, 4),
        {},
        DomainError,
        "output for input 0",
    ),
    "infinite derivative": (
        lambda: RootOfZero(4, 3),
        inputs(2, 4),
        {},
        UnsupportedError,
        "first derivative.*'weight'",
    ),
    "detached": (lambda: Detached(4, 3), inputs(2, 4), {}, UnsupportedError, "does not depend"),
    "half classes": (
        lambda: mlp(4, 3),
        (inputs(2, 4), torch.tensor([0.5, 1.0])),
        {},
        ShapeError,
        "label 0.5",
    ),
    "one-hot labels": (
        lambda: mlp(4, 3),
        (inputs(2, 4), torch.eye(3)[:2]),
        {},
        ShapeError,
        "argmax",
    ),
    "rows in a list": (lambda: mlp(4, 3), inputs(3, 4).tolist(), {}, ShapeError, "np.stack"),
    "device": (lambda: mlp(4, 3), inputs(2, 4), {"device": "gpu"}, UnsupportedError, "'gpu'"),
    "lazy": (
        lambda: nn.Sequential(nn.LazyLinear(3)),
        inputs(2, 4),
        {},
        UnsupportedError,
        "no shape yet",
    ),
    "wrong width": (lambda: mlp(4, 3), inputs(2, 5), {}, ShapeError, r"fails on a batch.*\[2, 5\]"),
    "nothing trainable": (
        lambda: mlp(4, 3).requires_grad_(False),
        inputs(2, 4),
        {},
        UnsupportedError,
        "no trainable",
    ),
}


class Mixing(nn.Linear):
    """Mixes those inputs of a batch whose first feature is positive."""

    def forward(self, x):
        marked = x[:, :1] > 0
        mean = (marked * x).sum(0) / marked.sum().clamp(min=1)
        return super().forward(torch.where(marked, x + mean, x))


@pytest.mark.parametrize("batches", [(100,), (64, 36), (64, 3), (64, 1, 40)])
def test_dependence_among_later_inputs_is_noticed(batches):
    data = inputs(sum(batches), 4)
    data[:, 0] = -data[:, 0].abs()
    data[64:, 0] *= -1
    with pytest.raises(DomainError, match="changes with the rest"):
        fimsym.analyze(build(lambda: Mixing(4, 3)), list(data.split(batches)), "categorical")


def test_dependence_on_the_batch_is_noticed_in_any_batch():
    data = inputs(34, 4)
    data[1:32] = data[0]
    with pytest.raises(DomainError, match="output for input 0 changes with the rest"):
        fimsym.analyze(build(lambda: AcrossBatch(4, 3)), data, "categorical")

    class Branch(nn.Linear):
        def forward(self, x):
            return super().forward(x) * (2 if bool((x > 0).all()) else 1)

    positive = inputs(32, 4).abs()
    with pytest.raises(DomainError, match="output for input 0 changes"):
        fimsym.analyze(
            build(lambda: Branch(4, 3)), torch.cat([positive, positive, -positive]), "categorical"
        )


class Shrinking(nn.Linear):
    """Writes to its weight in a forward pass, in one of several ways."""

    def __init__(self, way):
        super().__init__(4, 3)
        self.way = way

    def forward(self, x):
        if self.way == "without gradient":
            with torch.no_grad():
                self.weight.mul_(0.9)
        elif self.way == "behind autograd":
            self.weight.data *= 0.9
        elif self.way == "other data":
            self.weight.data = self.weight.data * 0.9
        elif self.way == "with gradient":
            self.weight.mul_(0.9)
        elif self.way == "input":
            x -= 1
        return super().forward(x)


@pytest.mark.parametrize("quantities", ["fisher", "all"])
@pytest.mark.parametrize(
    "way", ["without gradient", "behind autograd", "other data", "with gradient", "input"]
)
def test_writing_to_parameters_or_inputs_is_refused(way, quantities):
    model, data = build(lambda: Shrinking(way)), inputs(3, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UnsupportedError, match="in place"):
        fimsym.analyze(model, data, "categorical", quantities=quantities)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("quantities", ["fisher", "all"])
def test_writing_to_what_a_backward_pass_needs_is_refused(quantities):
    class Doubled(nn.Linear):
        def forward(self, x):
            z = super().forward(x).tanh()
            z[:, 0] *= 2
            return z

    with pytest.raises(UnsupportedError, match="its own backward pass needs"):
        fimsym.analyze(
            build(lambda: Doubled(4, 3)), inputs(3, 4), "categorical", quantities=quantities
        )


def test_a_buffer_that_every_pass_changes_is_named():
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(4, 3)
            self.register_buffer("count", torch.ones(()))

        def forward(self, x):
            self.count.add_(1)
            return super().forward(x) * self.count

    with pytest.raises(DomainError, match="buffers"):
        fimsym.analyze(build(Counting), inputs(3, 4), "categorical")


class Checkpointed(nn.Module):
    """A part that runs again in a backward pass; one of its layers takes the functional road."""

    def __init__(self, reentrant):
        super().__init__()
        self.first, self.last, self.reentrant = nn.Linear(4, 4), nn.Linear(4, 3), reentrant
        self.part = nn.Sequential(nn.Unflatten(1, (2, 2)), nn.ConvTranspose1d(2, 2, 1), nn.Tanh())

    def forward(self, x):
        z = self.first(x)
        if self.reentrant is None:
            return self.last(self.part(z).flatten(1))
        return self.last(checkpoint(self.part, z, use_reentrant=self.reentrant).flatten(1))


@pytest.mark.parametrize("max_memory", [None, 300])
@pytest.mark.parametrize("quantities", ["fisher", "all"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_change_nothing(reentrant, quantities, max_memory):
    given = {"family": "categorical", "quantities": quantities, "max_memory": max_memory}
    plain = fimsym.analyze(build(lambda: Checkpointed(None)), inputs(3, 4), **given)
    found = fimsym.analyze(build(lambda: Checkpointed(reentrant)), inputs(3, 4), **given)
    assert found.roads["part.1.weight"] == "functional"
    for name in plain.values:
        for parameter, value in plain.values[name].items():
            torch.testing.assert_close(found.values[name][parameter], value)
    assert checkpoint(torch.tanh, torch.ones(1, requires_grad=True), use_reentrant=False).grad_fn


class Once(torch.autograd.Function):
    """tanh whose backward pass can be taken only once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        (x,) = ctx.saved_tensors
        return gradients[0] * (1 - x.tanh().square())


class Own(torch.autograd.Function):
    """tanh as it should be written."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, *gradients):
        (x,) = ctx.saved_tensors
        return gradients[0] * (1 - x.tanh().square())


class Custom(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 4), nn.Linear(4, 3), function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def test_a_function_with_wrong_second_derivatives_is_named():
    model, data = build(lambda: Custom(Once.apply)), inputs(3, 4)
    with pytest.raises(UnsupportedError, match="no right second derivatives through Once"):
        fimsym.analyze(model, data, "categorical", quantities="all")
    given = {"family": "categorical", "progress": False}
    plain = fimsym.analyze(build(lambda: Custom(torch.tanh)), data, quantities="all", **given)
    first = fimsym.analyze(model, data, **given)
    whole = fimsym.analyze(build(lambda: Custom(Own.apply)), data, quantities="all", **given)
    for found in (first, whole):
        for name, values in found.values.items():
            for parameter, value in values.items():
                torch.testing.assert_close(value, plain.values[name][parameter])


def test_buffers_of_the_model_are_left_alone():
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(4, 3)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count.add_(1)
            return super().forward(x)

    model = build(Counting)
    fimsym.analyze(model, inputs(3, 4), "categorical")
    assert model.count == 0


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(mistake):
    factory, data, options, error, message = MISTAKES[mistake]
    with pytest.raises(error, match=message):
        fimsym.analyze(build(factory), data, **{"family": "categorical", **options})


def test_a_parameter_reached_past_its_module_by_later_inputs():
    class Late(Listed):
        def forward(self, x):
            z = torch.tanh(self.layer(x))
            return (z @ self.tied[0] if (x > 9).any() else z)[:, :3]

    x = torch.cat([inputs(4, 4), inputs(4, 4) + 20])
    with pytest.raises(UnsupportedError, match=r"'layer\.weight' through what is no"):
        fimsym.analyze(build(Late), list(x.split(4)), "categorical", max_memory=1)


def test_no_module():
    with pytest.raises(UnsupportedError, match=r"torch\.nn\.Module"):
        fimsym.analyze(lambda x: x, inputs(2, 4), "categorical")


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.5), nn.BatchNorm1d(4), nn.AlphaDropout(0.1), nn.RReLU()], ids=str
)
def test_training_mode(layer):
    model = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 3)).double().train()
    with pytest.raises(DomainError, match=r"model\.eval\(\)"):
        fimsym.analyze(model, inputs(2, 4), "categorical")
    assert fimsym.analyze(model.eval(), inputs(2, 4), "categorical").inputs == 2
    plain = mlp(4, 5, 3).double().train()
    assert fimsym.analyze(plain, inputs(2, 4), "categorical").inputs == 2


def test_no_second_derivative_is_named_and_first_ones_still_work():
    class Model(nn.Linear):
        def forward(self, x):
            return torch.cdist(super().forward(x), torch.ones(3, 3, dtype=x.dtype), p=1.5)

    model = build(lambda: Model(4, 3))
    with pytest.raises(UnsupportedError, match="no second derivatives"):
        fimsym.analyze(model, inputs(2, 4), "categorical", quantities="all")
    assert fimsym.analyze(model, inputs(2, 4), "categorical").inputs == 2


class Root(nn.Module):
    def forward(self, x):
        return x.sqrt()


def test_the_place_between_layers_that_is_not_finite_is_named():
    class Rooted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.last(self.first(x).sqrt())

    expected = (
        r"What reaches 'last' \(Linear\) is not finite by what comes after 'first' \(Linear\)"
    )
    with pytest.raises(DomainError, match=expected):
        fimsym.analyze(build(Rooted), inputs(9, 4), "categorical")


@pytest.mark.parametrize("row", [0, 20])
def test_the_layer_that_is_not_finite_is_named(row):
    model = build(lambda: nn.Sequential(nn.Linear(4, 4), Root(), nn.Linear(4, 3)))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
        model[0].bias.zero_()
    data = inputs(30, 4).abs()
    data[row, 2] = -1.0
    expected = rf"for input {row} is .* The first layer whose result is not finite is '1' \(Root\)"
    with pytest.raises(DomainError, match=expected):
        fimsym.analyze(model, data, "categorical")
    assert not any(module._forward_hooks for module in model.modules())


def test_probabilities_where_logits_are_expected_are_noted():
    plain = build(lambda: mlp(4, 3))
    given = {"family": "categorical", "progress": False}
    found = fimsym.analyze(nn.Sequential(plain, nn.Softmax(1)), inputs(5, 4), **given)
    assert "expects logits: leave the softmax out" in found.notes[0]
    assert not fimsym.analyze(plain, inputs(5, 4), **given).notes
