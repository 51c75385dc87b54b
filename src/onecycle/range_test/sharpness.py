"""Curvature of the loss: its Hessian's largest eigenvalue, and the learning rate that three iterates suggest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..checks import number, share, whole
from ..data.seeds import derive_seed, seeded_everywhere
from ..errors import ConfigError, TrainingError
from ..optim.shared import is_sharded
from ..training.reachable import before_first_call, modules_of
from ..training.runtime import generators

# The share of the old value in the running average of `HessianFree`.
SMOOTHING = 0.9
# Changes in a row that are below the tolerance: one can be a rest on the way, at a smaller eigenvalue.
STILL = 2
# The tolerance along a sweep, where it is measured again and again.
PROBE_TOLERANCE = 0.05
# What is left of a vector that lies in the space of those before it, as a share of the eigenvalue.
ROUNDING = 1e-7


def sharpness(
    loss: Callable[[], Tensor],
    parameters: Iterable[nn.Parameter],
    *,
    iterations: int = 20,
    tolerance: float = 1e-2,
    seed: int = 0,
) -> float:
    """The eigenvalue of largest magnitude of the Hessian of a loss, with its sign.

    Power iteration on Hessian-vector products, read by Lanczos's method: of the space that v, H v, H^2 v, ... span it
    takes the eigenvalue of largest magnitude, not that of the last vector. At the same cost this needs fewer products
    and tells a largest positive eigenvalue from a negative one of about its size, as networks have when they are new.
    The magnitude is approached from below. Gradient descent on a quadratic is stable below lr = 2 / sharpness.

    The loss is computed once and its graph kept. A product costs about 2 backward passes, so O(iterations * 2 backward)
    in all; with batch norm, whose second derivative is slow in torch, about three times a whole update each. torch's
    scaled dot-product attention takes its plain form meanwhile, the only one with a second derivative.

    Nothing changes: neither gradients, nor buffers of the modules that `loss` leads to or calls (batch norms update
    copies of their running statistics, in either mode), nor the global generators, which are seeded for the loss's own
    draws, such as dropout's. So the same call gives the same number.

    Args:
        loss: computes the loss, one number, from the parameters as they are: the mean over one fixed batch, say.
        parameters: what the Hessian is of; those that require no gradient or that the loss does not use are left out.
        iterations: at most so many products, >= 1.
        tolerance: stop when the value changes twice in a row by less than this share of itself; 0 makes all iterations.
        seed: of the start vector and of the loss's draws.

    Raises:
        ConfigError: no parameter that the loss depends on, a loss that is not one number, `iterations` or `tolerance`
            out of range.
        TrainingError: something in the loss cannot be differentiated twice; a loss or a product that is not finite.

    >>> x = nn.Parameter(torch.ones(2))
    >>> sharpness(lambda: x[0] ** 2 - 3 * x[1] ** 2, [x])
    -6.0

    Source: LeCun, Simard and Pearlmutter, "Automatic learning rate maximization" (NIPS 1992); the products by
    Pearlmutter, "Fast exact multiplication by the Hessian" (1994); the reading by Lanczos (1950).
    """
    whole("iterations", iterations)
    share("tolerance", tolerance, of="the value")
    wanted = _trained(parameters)
    if any(map(is_sharded, wanted)):
        raise ConfigError(
            "sharpness needs second derivatives, and a model in shards has none: measure it without shard, or leave "
            "out full (--full)"
        )
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _no_trace(loss, wanted, derive_seed(seed, "sharpness")):
        points, gradients = zip(*_gradients(loss, wanted), strict=True)
        start = _start(points, derive_seed(seed, "sharpness", 0))
        return _lanczos(lambda v: _product(points, gradients, v), start, iterations, tolerance)


class HessianFree:
    """The best learning rate as three successive iterates of the weights tell it, smoothed; no derivatives needed.

    For iterates t0, t1, t2 that learning rates a (from t0 to t1) and b (from t1 to t2) led to, with sums over weights::

        estimate = sum |t1 - t0| / sum |(t1 - t0) / a - (t2 - t1) / b|
        value <- 0.9 value + 0.1 estimate

    At a constant rate a = b it is the paper's lr sum |t1 - t0| / sum |2 t1 - t0 - t2|; each step has its own rate here
    so that a rising one is not taken for curvature. After plain gradient descent (t1 - t0 = -a g0) the denominator is
    sum |g1 - g0|, and the estimate a mean of 1 / curvature. Momentum, adaptive optimizers and the noise of mini-batches
    make it smaller or larger: compare values of one kind of training. Steps as small as the rounding of the weights
    tell nothing.

    Batch norms' running statistics are no parameters and so have no part. Two copies of the weights are kept. Each run
    needs an object of its own.

    Source: Smith and Topin, arXiv 1708.07120, section 4.

    Raises:
        ConfigError: no parameters that require a gradient.

    >>> x = nn.Parameter(torch.tensor([8.0]))
    >>> estimate, optimizer = HessianFree([x]), torch.optim.SGD([x], lr=0.25)
    >>> for _ in range(3):
    ...     optimizer.zero_grad()
    ...     x.square().sum().backward()
    ...     optimizer.step()
    ...     estimate.update(lr=0.25)
    0.5
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        self.value: float | None = None  #: the smoothed estimate; None before the first
        self._parameters = _trained(parameters)
        self._iterates: list[list[Tensor]] = []  # the last two, the older first
        self._lr = 0.0  # that led to the newer

    @torch.no_grad()
    def update(self, lr: float) -> float | None:
        """Take in the weights after an update at learning rate `lr`: the smoothed estimate, None before the third call.

        Call it after updates that were applied, not after ones that were skipped. Iterates that tell nothing leave the
        value as it was: weights that stood still or are not finite, a learning rate of zero, a loss without curvature.

        Raises:
            ConfigError: a learning rate that is negative or not finite.
        """
        number("lr", lr, least=0, what="the learning rate of the update")
        if len(self._iterates) < 2:
            self._iterates.append([p.detach().clone() for p in self._parameters])
        else:
            self._learn(self._lr, lr)
            self._iterates.reverse()
            for copy, parameter in zip(self._iterates[1], self._parameters, strict=True):
                copy.copy_(parameter)
        self._lr = lr
        return self.value

    def _learn(self, first: float, second: float) -> None:
        if not (first and second):
            return
        moved = turned = 0.0
        for t0, t1, t2 in zip(*self._iterates, self._parameters, strict=True):
            step = t1 - t0
            moved += float(step.abs().sum())
            turned += float((step / first - (t2 - t1) / second).abs().sum())
        if moved and turned and math.isfinite(moved) and math.isfinite(turned):
            estimate = moved / turned
            self.value = estimate if self.value is None else SMOOTHING * self.value + (1 - SMOOTHING) * estimate


class SharpnessProbe:
    """A probe of a sweep: the sharpness of `loss` where measurements are due, and the Hessian-free estimate everywhere.

    `values` holds what was measured, ``{"lr", "largest_eigenvalue", "hessian_free"}`` [measurements] each, None for
    what is no longer finite; `seconds` is the time that it took.
    """

    def __init__(self, loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter]):
        self.values: dict[str, list[float | None]] = {"lr": [], "largest_eigenvalue": [], "hessian_free": []}
        self.seconds = 0.0
        self._loss, self._parameters = loss, parameters
        self._free = HessianFree(parameters)

    def __call__(self, lr: float, due: bool) -> None:
        started = time.perf_counter()
        free = self._free.update(lr)
        if due:
            for name, value in (("lr", lr), ("largest_eigenvalue", self._largest()), ("hessian_free", free)):
                self.values[name].append(value)
        self.seconds += time.perf_counter() - started

    def _largest(self) -> float | None:
        try:
            return sharpness(self._loss, self._parameters, tolerance=PROBE_TOLERANCE)
        except TrainingError:
            if not self.values["lr"]:  # it cannot be differentiated twice
                raise
            return None


def _trained(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    trained = [p for p in dict.fromkeys(parameters) if p.requires_grad]
    if not trained:
        raise ConfigError("there are no parameters that require a gradient; pass model.parameters()")
    return trained


def _gradients(loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
    """The parameters that the loss depends on, with gradients that can be differentiated."""
    value = loss()
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ConfigError(f"the loss is one number, a tensor such as loss(model(x), y).mean(); received {value!r}")
    if not math.isfinite(value.item()):
        raise TrainingError(f"the loss is {value.item()}: it has no curvature here; try a smaller learning rate")
    gradients: Sequence[Tensor | None] = [None]
    if value.requires_grad:
        # Starting from a one that requires a gradient, as otherwise operations with a first derivative alone go unseen.
        one = torch.ones_like(value).requires_grad_()
        with _twice():
            gradients = torch.autograd.grad(value, parameters, one, create_graph=True, allow_unused=True)
            _check_twice_differentiable(gradients)
    if all(gradient is None for gradient in gradients):
        raise ConfigError("the loss depends on none of the parameters; is it computed with them, and not detached?")
    return [(p, gradient) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


def _check_twice_differentiable(gradients: Sequence[Tensor | None]) -> None:
    """Raise where autograd would take an operation, marked `once_differentiable`, for a constant."""
    nodes, seen = {g.grad_fn for g in gradients if g is not None and g.grad_fn is not None}, set()
    while nodes:
        node = nodes.pop()
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("one of its operations is marked once_differentiable")
        nodes |= {earlier for earlier, _ in node.next_functions if earlier is not None} - seen


def _product(points: Sequence[Tensor], gradients: Sequence[Tensor], vector: Sequence[Tensor]) -> Sequence[Tensor]:
    """The Hessian times `vector`: the derivative of gradients . vector."""
    with _twice():
        return torch.autograd.grad(
            gradients, points, vector, retain_graph=True, allow_unused=True, materialize_grads=True
        )


def _lanczos(
    product: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    vector: Sequence[Tensor],
    iterations: int,
    tolerance: float,
) -> float:
    """The eigenvalue of largest magnitude of the tridiagonal matrix that the iteration builds, row by row.

    Vectors are made orthogonal to the last two alone. Rounding then repeats eigenvalues that have been found; it makes
    no new ones.
    """
    previous, size, value, still = vector, 0.0, 0.0, 0
    matrix = torch.zeros(0, 0, dtype=torch.float64)
    for k in range(iterations):
        image = product(vector)
        matrix = nn.functional.pad(matrix, (0, 1, 0, 1))
        matrix[k, k] = along = _dot(vector, image)
        if k:
            matrix[k, k - 1] = size  # eigvalsh reads the lower half
        if not math.isfinite(along):
            raise TrainingError("a product of the Hessian and a vector is not finite; try a smaller learning rate")
        before, value = value, max(torch.linalg.eigvalsh(matrix).tolist(), key=abs)
        image = [x - along * y - size * z for x, y, z in zip(image, vector, previous, strict=True)]
        size = math.sqrt(_dot(image, image))
        still = still + 1 if abs(value - before) < tolerance * abs(value) else 0
        if size <= ROUNDING * abs(value) or still == STILL:
            break
        previous, vector = vector, [part / size for part in image]
    return value


def _start(points: Sequence[Tensor], seed: int) -> list[Tensor]:
    """A random direction of length 1, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(p.shape, generator=generator).to(p) for p in points]
    length = math.sqrt(_dot(parts, parts))
    return [part / length for part in parts]


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


@contextmanager
def _twice() -> Iterator[None]:
    """Name the cause where autograd finds no second derivative."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise TrainingError(
            f"the loss cannot be differentiated twice, which its sharpness needs: {error}. Compute it with plain torch "
            "operations: an uncompiled model, no fused kernels, no backward() of one's own that has no derivative"
        ) from error


@contextmanager
def _no_trace(loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter], seed: int) -> Iterator[None]:
    """Within the block generators start from `seed` and modules have copies of their buffers.

    Copies, rather than values put back afterwards: writing into a tensor spoils graphs of the caller's that hold it.
    """
    with seeded_everywhere(seed, *generators(*{p.device for p in parameters})), ExitStack() as stack:
        copies: dict[int, Tensor] = {}

        def copy(module: nn.Module) -> None:
            for part in module.modules():
                before = dict(part._buffers)
                stack.callback(part._buffers.update, before)
                stack.callback(part._buffers.clear)
                for name, buffer in before.items():
                    if buffer is not None:
                        part._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())

        known = modules_of(parameters, loss)
        for module in known:
            copy(module)
        with before_first_call(copy, known):
            yield
