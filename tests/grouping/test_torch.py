"""Partitions of models in plain torch.nn: roles, views and rules, with nothing told but one batch."""

import pytest

torch = pytest.importorskip("torch")
F, nn = torch.nn.functional, torch.nn

from downslope.grouping.torch import partition  # noqa: E402


class Attention(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (part.view(b, t, self.heads, -1).transpose(1, 2) for part in self.qkv(x).split(c, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).reshape(b, t, c))


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.norm1, self.norm2, self.attn = nn.LayerNorm(d), nn.LayerNorm(d), Attention(d, heads)
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, *, tied):
        super().__init__()
        self.token, self.place = nn.Embedding(50, 32), nn.Embedding(16, 32)
        self.blocks = nn.Sequential(Block(32, 4), Block(32, 4))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 50, bias=False)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, ids, targets=None):
        x = self.token(ids) + self.place(torch.arange(ids.shape[1]))
        z = self.head(self.norm(self.blocks(x)))
        return z if targets is None else F.cross_entropy(z.flatten(0, 1), targets.flatten())


def roles(p):
    return {a.name: a.role.value for a in p if len(a.shape) > 1}


IDS = torch.arange(16).reshape(2, 8)


@pytest.mark.parametrize("inputs", [(IDS,), (IDS, IDS)], ids=["logits", "loss"])
@pytest.mark.parametrize("tied", [True, False])
def test_gpt(tied, inputs):
    p = partition(GPT(tied=tied), *inputs)
    inner = {
        f"blocks.{k}.{name}.weight": "hidden"
        for k in range(2)
        for name in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2")
    }
    ends = {"token.weight": "embedding", "place.weight": "embedding"}
    assert roles(p) == inner | ends | ({} if tied else {"head.weight": "output"})
    assert p["blocks.0.attn.qkv.weight"].view.matrices((96, 32)) == [(3, 32, 32)]
    assert all(a.rule == ("muon" if a.role == "hidden" else "adamw") for a in p)
    assert ("shared with head.weight" in p["token.weight"].reason) == tied


def test_mlp():
    model = nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4), nn.Softmax(-1)
    )
    p = partition(model, torch.randn(2, 8))
    assert roles(p) == {"0.weight": "input", "2.weight": "hidden", "4.weight": "output"}
    assert {a.role.value for a in p if len(a.shape) == 1} == {"vector"}


def test_convolutions_are_seen_as_one_matrix_a_group():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 32, 3, groups=2),
        nn.ConvTranspose2d(32, 16, 3, groups=2),
        nn.Conv2d(16, 16, 3, groups=16, padding=1),
        nn.Flatten(),
        nn.LazyLinear(10),
    )
    x = torch.randn(2, 3, 12, 12)
    model(x)
    p = partition(model, x)
    assert roles(p) == {
        "0.weight": "input",
        "3.weight": "hidden",
        "4.weight": "hidden",
        "5.weight": "vector",
        "7.weight": "output",
    }
    assert p["3.weight"].view.matrices((32, 8, 3, 3)) == [(2, 16, 72)]
    assert p["4.weight"].view.matrices((32, 8, 3, 3)) == [(2, 8, 144)]


@pytest.mark.parametrize(
    "penalty",
    [
        lambda w: w.pow(2).sum(),
        lambda w: w.norm(),
        lambda w: w.abs().mean(),
        lambda w: w.abs().amax(1).sum(),
        lambda w: torch.linalg.matrix_norm(w),
    ],
    ids=["squares", "norm", "absolute", "rows", "matrix_norm"],
)
def test_a_penalty_in_the_loss_is_no_use_of_a_weight(penalty):
    class Model(nn.Sequential):
        def forward(self, x):
            loss = super().forward(x).square().mean()
            return loss + 1e-3 * sum(penalty(p) for p in self.parameters() if p.dim() > 1)

    model = Model(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    found = partition(model, torch.randn(2, 8))
    assert [a.role.value for a in found if len(a.shape) > 1] == ["input", "hidden", "output"]


def test_experts_that_are_all_computed_are_a_stack_and_their_gate_routes():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.gate = nn.Embedding(20, 16), nn.Linear(16, 4, bias=False)
            self.up, self.down = nn.Parameter(torch.randn(4, 16, 64)), nn.Parameter(torch.randn(4, 32, 16))
            self.head = nn.Linear(16, 20)

        def forward(self, ids):
            x = self.table(ids)
            best, which = self.gate(x).softmax(-1).topk(2, -1)
            weights = x.new_zeros(*x.shape[:2], 4).scatter(-1, which, best)
            a, b = torch.einsum("btd,edf->btef", x, self.up).chunk(2, -1)
            y = torch.einsum("btef,efd->bted", F.silu(a) * b, self.down)
            return self.head(x + torch.einsum("bted,bte->btd", y, weights))

    found = partition(Experts(), torch.arange(12).reshape(2, 6))
    assert found["gate.weight"].role.value == "router"
    assert found["up"].to_dict()["matrices"] == "8 × 32×16"
    assert found["down"].to_dict()["matrices"] == "4 × 16×32"


class Mixer(nn.Module):
    """A table, one layer of attention without weights over what a layer makes of it, and a head."""

    def __init__(self, **layers):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 32), nn.Linear(32, 20)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, ids):
        x = self.table(ids)
        return self.head(x + self.mix(x, ids))


class Filtered(Mixer):
    def mix(self, x, ids):
        gate, rest = self.project(x).split([32, 48], -1)
        rest = F.silu(self.filter(rest.mT)[..., : x.shape[1]].mT)
        value, key, query = rest.split([32, 8, 8], -1)
        return (query @ key.mT) @ value * F.silu(gate)


@pytest.mark.parametrize("pad", [None, nn.ConstantPad1d((3, 0), 0.0), nn.ReplicationPad1d((3, 0))])
def test_a_depthwise_convolution_leaves_a_projection_the_parts_that_it_is_cut_into(pad):
    kernels = nn.Conv1d(48, 48, 4, groups=48, padding=0 if pad else 3)
    model = Filtered(project=nn.Linear(32, 80), filter=kernels)
    if pad:
        kernels.register_forward_pre_hook(lambda _, inputs: pad(*inputs))
    found = partition(model, torch.arange(12).reshape(2, 6))
    assert found["project.weight"].to_dict()["matrices"] == "2 × 32×32 + 2 × 8×32"
    assert found["filter.weight"].role.value == "vector"


class Packed(Mixer):
    def mix(self, x, ids):
        rows, kernels = self.project(x).mT.split(self.sizes, 1), self.filter.weight.split(self.sizes)
        parts = [F.conv1d(y, w, padding="same", groups=len(w)) for y, w in zip(rows, kernels, strict=True)]
        return torch.cat([part.sigmoid() for part in parts], 1).mT


@pytest.mark.parametrize("sizes", [(24, 8), (16, 16), (12, 12, 8)])
def test_a_kernel_may_be_used_in_parts_with_groups_of_their_own(sizes):
    model = Packed(project=nn.Linear(32, 32), filter=nn.Conv1d(32, 32, 3, groups=32))
    model.sizes = sizes
    found = partition(model, torch.arange(12).reshape(2, 6))
    assert found["filter.weight"].role.value == "vector"
    assert found["filter.weight"].to_dict()["matrices"] == "32 × 1×3"
    assert "in 32 groups" in found["filter.weight"].reason


class Quantized(Mixer):
    def mix(self, x, ids):
        h, book = self.code(x), self.book.weight
        nearest = (2 * h @ book.mT - (book**2).sum(1)).argmax(-1)
        return torch.tanh(self.decode(h + (book[nearest] - h).detach()))


def test_a_codebook_that_ranks_its_own_rows_is_an_embedding():
    layers = {"code": nn.Linear(32, 12), "book": nn.Embedding(20, 12), "decode": nn.Linear(12, 32)}
    found = partition(Quantized(**layers), torch.arange(12).reshape(2, 6))
    assert found["book.weight"].role.value == "embedding"
    assert {found[f"{name}.weight"].role.value for name in ("code", "decode")} == {"hidden"}


class Codebooks(Mixer):
    def mix(self, x, ids):
        h = self.code(x).unflatten(-1, (4, 8)).movedim(-2, 0).flatten(1, 2)  # four codes of a token
        nearest = torch.cdist(h, self.books).argmin(-1)
        rows = self.books.gather(1, nearest[..., None].expand(*nearest.shape, 8))
        return self.decode((h + (rows - h).detach()).movedim(0, -2).reshape(x.shape)).tanh()


def test_each_of_a_stack_of_codebooks_is_an_embedding():
    books = nn.Parameter(torch.randn(4, 20, 8))
    found = partition(Codebooks(code=nn.Linear(32, 32), decode=nn.Linear(32, 32), books=books), IDS)
    assert found["books"].role.value == "embedding"
    assert {found[f"{name}.weight"].role.value for name in ("code", "decode")} == {"hidden"}


class Signs(Mixer):
    def mix(self, x, ids):
        return self.decode(torch.where(self.code(x) > 0, 1.0, -1.0)).tanh()


def test_what_reads_the_signs_of_a_result_does_not_read_raw_data():
    found = partition(Signs(code=nn.Linear(32, 12), decode=nn.Linear(12, 32)), IDS)
    assert {found[f"{name}.weight"].role.value for name in ("code", "decode")} == {"hidden"}


class Mixed(Mixer):
    def mix(self, x, ids):
        rows = self.project(x).unflatten(-1, (16, 4)).flatten(0, 1)  # 16 channels of 4 places
        a, b = self.filter(rows).chunk(2, 1)
        return (a * b).reshape(x.shape)


def test_a_convolution_along_outputs_mixes_them():
    model = Mixed(project=nn.Linear(32, 64), filter=nn.Conv1d(16, 16, 3, groups=16, padding=1))
    found = partition(model, torch.arange(12).reshape(2, 6))
    assert found["project.weight"].to_dict()["matrices"] == "64×32"


class Convolved(nn.Module):
    def __init__(self, *filters):
        super().__init__()
        self.read, self.wide = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 48, 1)
        self.filters, self.back, self.head = nn.ModuleList(filters), nn.Conv2d(48, 8, 1), nn.Linear(8, 10)

    def forward(self, x):
        x = self.read(x)
        parts = self.wide(x).split([f.in_channels for f in self.filters], 1)
        y = torch.cat([f(part) for f, part in zip(self.filters, parts, strict=True)], 1)
        return self.head((x + self.back(y.relu())).mean((2, 3)))


@pytest.mark.parametrize("widths", [(48,), (16, 32)], ids=["one kernel", "two sizes of kernels"])
def test_channels_that_are_only_filtered_are_of_one_projection(widths):
    filters = [nn.Conv2d(n, n, 2 * k + 3, padding=k + 1, groups=n) for k, n in enumerate(widths)]
    found = partition(Convolved(*filters), torch.randn(2, 3, 12, 12))
    assert found["wide.weight"].to_dict()["matrices"] == "48×8"


class Modulated(Mixer):
    def mix(self, x, ids):
        shift, scale, other_shift, other_scale = self.project(F.silu(x[:, :1])).chunk(4, -1)
        tokens, others = x[:, :2], x[:, 2:]
        both = [tokens * (1 + scale) + shift, others * (1 + other_scale) + other_shift]
        return self.back(torch.cat(both, 1).tanh())


def test_parts_that_go_to_tokens_of_their_own_are_projections():
    model = Modulated(project=nn.Linear(32, 128), back=nn.Linear(32, 32))
    found = partition(model, torch.arange(12).reshape(2, 6))
    assert found["project.weight"].to_dict()["matrices"] == "4 × 32×32"


class Shifted(Mixer):
    def mix(self, x, ids):
        shift, scale = self.project(x).chunk(2, -1)
        return self.back(torch.addcmul(shift, torch.lerp(x, x.roll(1, 1), self.way), 1 + scale).tanh())


def test_a_product_and_a_sum_in_one_are_a_product_and_a_sum():
    way = nn.Parameter(torch.rand(8, 32))
    found = partition(Shifted(project=nn.Linear(32, 64), back=nn.Linear(32, 32), way=way), IDS)
    assert found["project.weight"].to_dict()["matrices"] == "2 × 32×32"
    assert found["way"].reason == "multiplies the data element by element"


class Passed(Mixer):
    def mix(self, x, ids):
        keys, values = self.project(x).chunk(2, -1)
        keys, values = torch.stack([keys, values]).roll(1, 1).unbind(0)  # passed on together
        return (x @ keys.mT).softmax(-1) @ values


def test_what_is_stacked_on_its_way_and_taken_apart_again_is_fused():
    found = partition(Passed(project=nn.Linear(32, 64)), IDS)
    assert found["project.weight"].to_dict()["matrices"] == "2 × 32×32"


class Halves(Mixer):
    def mix(self, x, ids):
        made = []
        for half in self.project(x).unflatten(-1, (3, 32)).split(16, -1):
            queries, keys, values = half.unbind(-2)
            made.append((queries @ keys.mT).softmax(-1) @ values)
        return torch.cat(made, -1)


def test_a_part_of_each_projection_is_one_where_it_is_used_alone():
    found = partition(Halves(project=nn.Linear(32, 96)), IDS)
    assert found["project.weight"].to_dict()["matrices"] == "6 × 16×32"


class Grouped(Mixer):
    def mix(self, x, ids):
        parts = x.reshape(-1, 4, 8).transpose(0, 1)
        return (parts @ self.narrow.weight.view(4, -1, 8).mT).transpose(0, 1).reshape(x.shape)


def test_a_linear_layer_in_groups_is_one_matrix_a_group():
    found = partition(Grouped(narrow=nn.Linear(8, 32, bias=False)), torch.arange(12).reshape(2, 6))
    assert found["narrow.weight"].to_dict()["matrices"] == "4 × 8×8"


class Hashed(Mixer):
    def mix(self, x, ids):
        which = torch.stack([ids % 4, (ids + 1) % 4], -1)  # by the token, whatever the gate says
        weights = F.softplus(self.gate(x)).gather(-1, which)
        y = torch.stack([x @ w for w in self.experts], -2)
        y = y.gather(-2, which[..., None].expand(*which.shape, x.shape[-1]))
        return (y * weights[..., None]).sum(-2)


def test_a_gate_of_experts_that_a_table_chooses_is_a_router():
    model = Hashed(gate=nn.Linear(32, 4), experts=nn.Parameter(torch.randn(4, 32, 32)))
    found = partition(model, torch.arange(12).reshape(2, 6))
    assert found["gate.weight"].role.value == "router"
    assert found["experts"].to_dict()["matrices"] == "4 × 32×32"


class Spline(Mixer):
    def mix(self, x, ids):
        widths, heights = self.knots(x).unflatten(-1, (32, 8)).chunk(2, -1)
        places = widths.softmax(-1).cumsum(-1)
        which = torch.searchsorted(places, x.sigmoid()[..., None]).clamp(max=3)
        return x * heights.gather(-1, which)[..., 0]


def test_knots_that_are_picked_by_where_they_lie_route_nothing():
    found = partition(Spline(knots=nn.Linear(32, 256)), IDS)
    assert found["knots.weight"].role.value == "hidden"


class Soft(Mixer):
    def mix(self, x, ids):
        scores = torch.einsum("btd,esd->btes", x, self.slots)
        places = torch.einsum("btd,btes->ebsd", x, scores.softmax(1))
        y = torch.stack([torch.tanh(p @ w) for p, w in zip(places, self.experts, strict=True)], 1)
        return torch.einsum("bsd,bts->btd", y.flatten(1, 2), scores.flatten(2).softmax(-1))


def test_slots_that_weigh_the_results_of_experts_are_a_router():
    slots, experts = nn.Parameter(torch.randn(4, 3, 32)), nn.Parameter(torch.randn(4, 32, 32))
    found = partition(Soft(slots=slots, experts=experts), IDS)
    assert found["slots"].role.value == "router"
    assert found["experts"].to_dict()["matrices"] == "4 × 32×32"


class Invertible(Mixer):
    def mix(self, x, ids):
        return torch.tanh(self.turn(x)) * torch.linalg.slogdet(self.turn.weight)[1]


def test_a_determinant_is_no_use_of_a_matrix():
    found = partition(Invertible(turn=nn.Linear(32, 32)), IDS)
    assert found["turn.weight"].role.value == "hidden"


class Sampled(Mixer):
    def mix(self, x, ids):
        deviation = F.softplus(self.spread) * torch.randn_like(self.spread)
        return torch.tanh(x @ (self.mean + deviation).mT)


def test_a_weight_that_noise_is_added_to_is_a_weight():
    mean, spread = nn.Parameter(torch.randn(32, 32)), nn.Parameter(torch.randn(32, 32))
    found = partition(Sampled(mean=mean, spread=spread), IDS)
    assert found["mean"].role.value == "hidden"
    assert found["spread"].role.value == "vector"


class Circular(Mixer):
    def mix(self, x, ids):
        return torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(self.filter), n=x.shape[-1])


def test_a_filter_that_is_met_in_frequencies_is_used():
    found = partition(Circular(filter=nn.Parameter(torch.randn(32))), IDS)
    assert found["filter"].role.value == "vector"


class Merged(Mixer):
    def mix(self, x, ids):
        shares = self.gate(x.mean(1)).softmax(-1)
        expert = torch.einsum("be,eoi->boi", shares, self.experts)
        kernels = torch.einsum("be,eoik->boik", shares, self.kernels)
        y = torch.tanh(torch.einsum("bti,boi->bot", x, expert))
        z = F.conv1d(y.flatten(0, 1)[None], kernels.flatten(0, 1), padding=1, groups=len(x))
        return z.view(x.mT.shape).mT


def test_experts_that_are_merged_before_they_meet_the_data_are_a_stack_and_their_gate_routes():
    experts, kernels = nn.Parameter(torch.randn(4, 24, 32)), nn.Parameter(torch.randn(4, 32, 24, 3))
    found = partition(Merged(gate=nn.Linear(32, 4), experts=experts, kernels=kernels), IDS)
    assert found["gate.weight"].role.value == "router"
    assert found["experts"].to_dict()["matrices"] == "4 × 24×32"
    assert found["kernels"].to_dict()["matrices"] == "4 × 32×72"


class Turned(Mixer):
    def mix(self, x, ids):
        skew = x.new_zeros(4, 8, 8)
        rows, columns = torch.triu_indices(8, 8, 1)
        skew[:, rows, columns] = self.angles
        turns = torch.matrix_exp(skew - skew.mT)
        return torch.einsum("btgi,gij->btgj", x.unflatten(-1, (4, 8)), turns).flatten(-2).tanh()


def test_entries_that_are_written_into_matrices_one_by_one_are_no_matrix():
    found = partition(Turned(angles=nn.Parameter(torch.randn(4, 28))), IDS)
    assert found["angles"].role.value == "vector"


class Gated(Mixer):
    def mix(self, x, ids):
        parts = x.unflatten(-1, (4, 8))
        a, b = (torch.einsum("btgi,gio->btgo", parts, w).flatten(-2) for w in (self.a, self.b))
        return torch.sigmoid(a) * b


def test_a_gate_in_heads_that_meets_another_entry_by_entry_is_no_router():
    a, b = (nn.Parameter(torch.randn(4, 8, 8)) for _ in "ab")
    found = partition(Gated(a=a, b=b), torch.arange(12).reshape(2, 6))
    assert found["a"].role.value == found["b"].role.value == "hidden"


class Energy(nn.Module):
    """A force field: what it returns is the derivative of what it computes, found in one of three ways."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.read, self.inner, self.head = nn.Linear(3, 32), nn.Linear(32, 24), nn.Linear(24, 1)

    def energy(self, x):
        return self.head(torch.tanh(self.inner(torch.tanh(self.read(x))))).sum()

    def forward(self, x):
        if self.way == "autograd.grad":
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self.energy(x), x, create_graph=self.training)[0]
        if self.way == "backward":
            x = x.detach().requires_grad_()
            self.energy(x).backward()
            return x.grad
        return torch.func.vmap(torch.func.grad(self.energy))(x)


@pytest.mark.parametrize("way", ["autograd.grad", "backward", "torch.func"])
def test_a_model_that_differentiates_is_followed_and_left_as_it_was(way):
    model = Energy(way)
    model.energy(torch.randn(2, 3)).backward()
    grads = [(p.grad, p.grad.clone()) for p in model.parameters()]
    found = partition(model, torch.randn(4, 3))
    assert found["inner.weight"].role.value == "hidden"
    assert found["inner.weight"].view.matrices((24, 32)) == [(1, 24, 32)]
    assert found["read.weight"].rule == found["head.weight"].rule == "adamw"
    if way != "torch.func":  # whose passes are not told apart
        assert found["head.weight"].role.value == "output"
    for p, (grad, value) in zip(model.parameters(), grads, strict=True):
        assert p.grad is grad
        assert torch.equal(grad, value)


def test_a_model_that_maps_over_its_batch_is_followed():
    model = Energy("")
    model.forward = torch.func.vmap(lambda x: model.head(torch.tanh(model.inner(torch.tanh(model.read(x))))))
    expected = {"read.weight": "input", "inner.weight": "hidden", "head.weight": "output"}
    assert roles(partition(model, torch.randn(4, 3))) == expected


class Slope(nn.Module):
    """The derivative along raw data that a layer reads beside what another has made of some."""

    def __init__(self):
        super().__init__()
        self.read, self.inner, self.head = nn.Linear(3, 16), nn.Linear(20, 24), nn.Linear(24, 8)

    def forward(self, x, context):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = torch.tanh(self.inner(torch.cat([x, torch.tanh(self.read(context))], -1)))
            return torch.autograd.grad(self.head(y).square().sum(), x, create_graph=True)[0]


def test_a_layer_that_a_derivative_passes_last_is_what_it_is_on_the_way_forward():
    found = partition(Slope(), torch.randn(5, 4), torch.randn(5, 3))
    assert roles(found) == {"read.weight": "input", "inner.weight": "hidden", "head.weight": "output"}
    assert found["inner.weight"].view.matrices((24, 20)) == [(1, 24, 20)]


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_gates_of_every_layer_and_direction_are_cut_in_packed_sequences_too(kind):
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(20, 16), nn.Linear(24, 5)
            self.cells = getattr(nn, kind)(16, 12, 2, bidirectional=True, batch_first=True)

        def forward(self, ids, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(
                self.table(ids), lengths, batch_first=True, enforce_sorted=False
            )
            return self.head(nn.utils.rnn.pad_packed_sequence(self.cells(packed)[0], batch_first=True)[0])

    found = partition(Tagger(), torch.arange(12).reshape(3, 4), torch.tensor([4, 2, 3]))
    gates = {"LSTM": 4, "GRU": 3}[kind]
    for a in found:
        if a.name.startswith("cells.weight"):
            assert a.role.value == "hidden"
            assert a.to_dict()["matrices"] == f"{gates} × 12×{a.shape[1]}"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided], ids=["jagged", "strided"])
def test_nested_tensors_are_followed_through_linear_layers(layout):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    batch = torch.nested.nested_tensor([torch.randn(3, 8), torch.randn(5, 8)], layout=layout)
    assert list(roles(partition(model, batch)).values()) == ["input", "hidden", "output"]


def test_nested_tensors_look_up_rows():
    model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    ids = [torch.tensor([1, 2, 3]), torch.tensor([4, 5])]
    found = partition(model, torch.nested.nested_tensor(ids, layout=torch.jagged))
    assert list(roles(found).values()) == ["embedding", "hidden", "output"]
