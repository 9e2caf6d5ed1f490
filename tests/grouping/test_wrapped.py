"""Wrapped and transformed models: names, roles and views are those of the plain model."""

import copy
import warnings

import pytest

torch = pytest.importorskip("torch")
F, nn = torch.nn.functional, torch.nn

from downslope.grouping.torch import named_parameters, partition  # noqa: E402
from downslope.grouping.view import MatrixView  # noqa: E402

X = torch.linspace(-1, 1, 16).reshape(2, 8)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.fixture
def plain():
    return partition(mlp(), X)


def test_the_plain_model(plain):
    assert [a.role.value for a in plain] == ["input", "vector", "hidden", "vector", "output", "vector"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own imports
def test_compiled(plain):
    model = torch.compile(mlp())
    assert partition(model, X) == plain
    assert list(named_parameters(model)) == [a.name for a in plain]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_part(plain):
    model = mlp()
    model[2] = torch.compile(model[2])
    assert partition(model, X) == plain


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(plain, dtype):
    assert partition(mlp().to(dtype), X.to(dtype)) == plain


def test_autocast(plain):
    class Model(nn.Sequential):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)

    assert partition(Model(*mlp()), X) == plain


def test_on_meta(plain):
    assert partition(mlp().to("meta"), X.to("meta")) == plain


def test_fake_tensors(plain):
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        assert partition(mlp(), torch.randn(2, 8)) == plain


def test_functional_call(plain):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        def forward(self, x):
            return torch.func.functional_call(self.inner, dict(self.inner.named_parameters()), (x,))

    assert [a.role for a in partition(Model(), X)] == [a.role for a in plain]


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed(plain, reentrant):
    from torch.utils.checkpoint import checkpoint

    class Model(nn.Sequential):
        def forward(self, x):
            for layer in self:
                x = checkpoint(layer, x, use_reentrant=reentrant)
            return x

    assert partition(Model(*mlp()), X) == plain


def test_scripted(plain):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.script(mlp())
    assert [a.role for a in partition(model, X)] == [a.role for a in plain]


def test_custom_autograd_function():
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return x @ w

        @staticmethod
        def backward(ctx, g):
            x, w = ctx.saved_tensors
            return g @ w.T, x.T @ g

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.w = nn.Linear(8, 16), nn.Parameter(torch.randn(16, 12))

        def forward(self, x):
            return Product.apply(self.read(x), self.w).relu() @ self.w.T

    a = partition(Model(), X)["w"]
    assert a.role.value == "output"  # used twice, the second time transposed: the stricter role


def test_weights_stacked_on_the_way():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.read, self.head = nn.Linear(8, 8), nn.Linear(16, 3)
            self.experts = nn.ModuleList(nn.Linear(8, 16, bias=False) for _ in range(3))

        def forward(self, x):
            w = torch.stack([e.weight for e in self.experts])
            return self.head(torch.einsum("bi,eoi->ebo", self.read(x), w).sum(0))

    p = partition(Model(), X)
    assert {p[f"experts.{k}.weight"].view for k in range(3)} == {MatrixView((0,), (1,))}
    assert {p[f"experts.{k}.weight"].role.value for k in range(3)} == {"hidden"}


def test_vmap_over_an_ensemble():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.read = nn.Linear(8, 8)
            self.w, self.head = nn.Parameter(torch.randn(3, 16, 8)), nn.Linear(16, 2)

        def forward(self, x):
            x = self.read(x)
            return self.head(torch.vmap(lambda w: x @ w.t())(self.w).mean(0))

    a = partition(Model(), X)["w"]
    assert (a.role.value, a.to_dict()["matrices"]) == ("hidden", "3 × 16×8")


@pytest.fixture
def process_group(tmp_path):
    dist = torch.distributed
    if not dist.is_available() or dist.is_initialized():
        pytest.skip("needs a process group of its own")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_data_parallel_and_sharded(plain, process_group):
    from torch.distributed.fsdp import fully_shard

    assert partition(nn.parallel.DistributedDataParallel(mlp()), X) == plain
    model = mlp()
    fully_shard(model[0])
    fully_shard(model)
    p = partition(model, X)
    assert p == plain
    assert all(p.parameters[n] is q for n, q in model.named_parameters())
    model(X).sum().backward()  # nothing stays gathered that the wrapper believes to be in shards
    assert all(q.grad is not None for q in model.parameters())


@pytest.mark.filterwarnings("ignore")
def test_the_state_of_a_sharded_model_stays_one_of_shards(process_group):
    """After a forward pass its outermost layers are gathered: what is saved, or read into, is not."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model = mlp()
    fully_shard(model)
    partition(model, X)
    model(X)
    saved = model.state_dict()
    assert all(isinstance(value, DTensor) for value in saved.values())
    model(X)
    model.load_state_dict({name: torch.zeros_like(value) for name, value in saved.items()})
    model.reshard()
    assert not any(p.full_tensor().any() for p in model.parameters())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("part", [True, False])
def test_flattened_parameters_are_refused(process_group, original, part):
    """FSDP1 leaves flat parameters: every one would be a vector, or unused, and nothing would be said."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    def wrapped(module):
        return FullyShardedDataParallel(module, use_orig_params=original, device_id=torch.device("cpu"))

    model = mlp()
    if part:
        model[2] = wrapped(model[2])
    else:
        model = wrapped(model)
    where = "2" if part else "FullyShardedDataParallel"
    for call in (lambda: partition(model, X), lambda: named_parameters(model)):
        with pytest.raises(ValueError, match=rf"^{where} is wrapped in Fully.*fully_shard"):
            call()


def test_a_copy_of_the_model_gives_the_same(plain):
    model = mlp()
    assert partition(copy.deepcopy(model), X) == partition(model, X) == plain
