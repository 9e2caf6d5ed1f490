"""Parts of well-known architectures in which what is multiplied is not written as a product of matrices."""

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
F, nn = torch.nn.functional, torch.nn

from downslope.grouping.torch import partition  # noqa: E402


class Between(nn.Module):
    """A part between a table and a head; `parameters` are its own, `part(p, x)` is what it computes."""

    def __init__(self, part, **shapes):
        super().__init__()
        self.part = part
        self.table, self.head = nn.Embedding(30, 16), nn.Linear(16, 30)
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, tokens, *others):
        x = self.table(tokens)
        own = SimpleNamespace(**dict(self.named_parameters(recurse=False)))
        return self.head(x + self.part(own, x, *others))


def seen(part, *others, **shapes):
    found = partition(Between(part, **shapes), torch.arange(10).reshape(2, 5), *others)
    assert (found["table.weight"].role.value, found["head.weight"].role.value) == ("embedding", "output")
    return {name: (found[name].role.value, found[name].to_dict()["matrices"]) for name in shapes}


def attend(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize(
    ("shape", "equation", "matrices"),
    [
        ((3, 16, 16), "btd,cdf->cbtf", "3 × 16×16"),
        ((16, 3, 16), "btd,dcf->cbtf", "3 × 16×16"),
        ((16, 16, 3), "btd,dfc->cbtf", "3 × 16×16"),
        ((3, 2, 8, 16), "btd,chkd->cbthk", "3 × 16×16"),
        ((2, 3, 8, 16), "btd,hckd->cbthk", "3 × 16×16"),
    ],
)
def test_projections_that_are_fused_along_an_axis_of_their_own(shape, equation, matrices):
    def part(p, x):
        q, k, v = torch.einsum(equation, x, p.w)
        return attend(q, k, v).flatten(2) if q.dim() == 4 else attend(q, k, v)

    assert seen(part, w=shape) == {"w": ("hidden", matrices)}


def test_grouped_queries_keys_and_values_that_are_fused_along_the_axis_of_heads():
    def part(p, x):
        q, k, v = torch.einsum("btd,dhk->bhtk", x, p.w).split([2, 1, 1], 1)
        return attend(q, k.repeat(1, 2, 1, 1), v.repeat(1, 2, 1, 1)).transpose(1, 2).flatten(2)

    assert seen(part, w=(16, 4, 8)) == {"w": ("hidden", "16×16 + 2 × 8×16")}


def test_gates_that_are_cut_after_the_activation_of_a_sum():
    def part(p, x):
        h = torch.zeros(2, 16)
        for t in range(3):
            update, reset = torch.sigmoid(x[:, t] @ p.w + h @ p.u).chunk(2, 1)
            h = update * h + (1 - update) * torch.tanh(x[:, t] @ p.v + (reset * h) @ p.s)
        return h[:, None]

    found = seen(part, w=(16, 32), u=(16, 32), v=(16, 16), s=(16, 16))
    assert found["w"] == found["u"] == ("hidden", "2 × 16×16")


def test_channels_that_are_cut_after_the_activation_of_a_sum_and_put_back_are_no_gates():
    def part(p, x):
        one, two = torch.relu(x @ p.w + x.flip(1) @ p.u).chunk(2, 2)
        return torch.cat([one, torch.tanh(two @ p.s)], 2)

    found = seen(part, w=(16, 16), u=(16, 16), s=(8, 8))
    assert found["w"] == found["u"] == ("hidden", "16×16")


@pytest.mark.parametrize("how", ["gather", "one_hot"])
def test_a_gate_whose_experts_choose_their_tokens_routes(how):
    def part(p, x):
        h = x.flatten(0, 1)
        gains, chosen = (h @ p.gate).softmax(-1).T.topk(3, -1)
        picks = F.one_hot(chosen, len(h)).float()
        given = h[chosen] if how == "gather" else torch.einsum("ecn,nd->ecd", picks, h)
        made = torch.relu(given @ p.up) @ p.down * gains[..., None]
        return torch.einsum("ecn,ecd->nd", picks, made).unflatten(0, x.shape[:2])

    assert seen(part, gate=(16, 4), up=(4, 16, 32), down=(4, 32, 16)) == {
        "gate": ("router", "4×16"),
        "up": ("hidden", "4 × 32×16"),
        "down": ("hidden", "4 × 16×32"),
    }


def test_matrices_mixed_from_a_basis_and_fetched_by_relation():
    def part(p, x, relation):  # a relational graph convolution
        mixed = torch.einsum("rb,bio->rio", p.mix, p.basis)
        return torch.einsum("bti,btio->bto", x, mixed[relation])

    relation = torch.randint(5, (2, 5))
    assert seen(part, relation, basis=(4, 16, 16), mix=(5, 4)) == {
        "basis": ("hidden", "4 × 16×16"),
        "mix": ("embedding", ""),
    }


def test_a_product_that_is_summed_is_a_contraction():
    assert seen(lambda p, x: (x[:, :, None] * p.w).sum(-1), w=(16, 16)) == {"w": ("hidden", "16×16")}
    pooled = seen(lambda p, x: (x * p.w).sum(1, keepdim=True), w=(5, 16))  # a filter for each channel
    assert pooled["w"][0] == "vector"


@pytest.mark.parametrize("demodulate", [True, False])
def test_a_kernel_that_a_style_scales_is_a_kernel(demodulate):
    class Styled(nn.Module):
        def __init__(self):
            super().__init__()
            self.style, self.first = nn.Linear(12, 8), nn.Conv2d(3, 8, 1)
            self.kernel = nn.Parameter(torch.randn(16, 8, 3, 3))
            self.image = nn.Conv2d(16, 3, 1)

        def forward(self, x, z):
            kernels = self.kernel * self.style(z)[:, None, :, None, None]
            if demodulate:
                kernels = kernels * kernels.square().sum((2, 3, 4), keepdim=True).rsqrt()
            rows = self.first(x).reshape(1, -1, *x.shape[2:])
            made = F.conv2d(rows, kernels.flatten(0, 1), padding=1, groups=len(x))
            return self.image(torch.relu(made.view(len(x), 16, *x.shape[2:])))

    found = partition(Styled(), torch.randn(2, 3, 8, 8), torch.randn(2, 12))
    assert {n: found[f"{n}.weight"].role.value for n in ("style", "first", "image")} == {
        "style": "input",
        "first": "input",
        "image": "output",
    }
    assert (found["kernel"].role.value, found["kernel"].to_dict()["matrices"]) == ("hidden", "16×72")


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("biased", [False, True])
def test_attention_whose_scores_a_function_changes(biased):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def part(p, x):
        q, k, v = F.linear(x, p.qkv).view(2, 5, 3, 2, 8).permute(2, 0, 3, 1, 4)
        if biased:
            out = flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + p.biases[h, j])
        else:
            causal = create_block_mask(lambda b, h, i, j: i >= j, None, None, 5, 5, device="cpu")
            out = flex_attention(q, k, v, block_mask=causal)
        return F.linear(out.transpose(1, 2).flatten(2), p.out)

    shapes = {"qkv": (48, 16), "out": (16, 16)} | ({"biases": (2, 5)} if biased else {})
    found = seen(part, **shapes)
    assert found["qkv"] == ("hidden", "3 × 16×16")
    assert found["out"] == ("hidden", "16×16")
    split = partition(Between(part, **shapes), torch.arange(10).reshape(2, 5), heads="split")
    assert split["qkv"].to_dict()["matrices"] == "6 × 8×16"
    if biased:
        assert (split["biases"].role.value, split["biases"].reason) == ("embedding", "rows are looked up")


def test_branches_are_run_unseen_and_that_is_said():
    def part(p, x):
        return torch.cond(x.sum() > 0, lambda x, w: x @ w, lambda x, w: x @ w.T, (x, p.w))

    found = partition(Between(part, w=(16, 16)), torch.arange(10).reshape(2, 5))["w"]
    assert (found.role.value, found.rule) == ("unclear", "adamw")
    assert "meets the data in cond" in found.warning


def test_complex_matrices_go_to_adamw():
    def part(p, x):  # a Fourier neural operator
        waves = torch.fft.rfft(x.transpose(1, 2))
        mixed = torch.einsum("bim,iom->bom", waves, p.w)
        return torch.fft.irfft(mixed, n=x.shape[1]).transpose(1, 2)

    model = Between(part)
    model.w = nn.Parameter(torch.randn(16, 16, 3, dtype=torch.complex64))
    found = partition(model, torch.arange(10).reshape(2, 5))["w"]
    assert (found.role.value, found.rule) == ("hidden", "adamw")
    assert found.reason.endswith("of complex numbers, whose parts AdamW steps")


def test_a_weight_of_pairs_of_numbers_that_are_read_as_complex():
    def part(p, x):  # a Fourier neural operator
        waves = torch.fft.rfft(x.transpose(1, 2))
        mixed = torch.einsum("bim,iom->bom", waves, torch.view_as_complex(p.w))
        return torch.fft.irfft(mixed, n=x.shape[1]).transpose(1, 2)

    assert seen(part, w=(16, 16, 3, 2)) == {"w": ("hidden", "6 × 16×16")}


def test_what_makes_the_filter_of_a_state_space_goes_to_adamw():
    def part(p, x):  # S4D
        length, rate = x.shape[1], p.log_rate.exp()[:, None]
        state = (-p.log_decay.exp() + 1j * p.wave) * rate
        c = torch.view_as_complex(p.c) * (torch.exp(state) - 1) / state
        filters = 2 * torch.einsum("hn,hnl->hl", c, torch.exp(state[..., None] * torch.arange(length))).real
        waves = torch.fft.rfft(x.transpose(1, 2), n=2 * length) * torch.fft.rfft(filters, n=2 * length)
        return torch.fft.irfft(waves, n=2 * length)[..., :length].transpose(1, 2)

    found = seen(part, log_rate=(16,), log_decay=(16, 4), wave=(16, 4), c=(16, 4, 2))
    assert {name: role for name, (role, _) in found.items()} == {
        "log_rate": "vector",
        **dict.fromkeys(("log_decay", "wave", "c"), "input"),
    }


@pytest.mark.parametrize(
    ("made", "shapes"),
    [
        (lambda p: p.up @ p.mix @ p.down, {"up": (16, 4), "mix": (4, 4), "down": (4, 16)}),
        (lambda p: p.up @ (p.mix @ p.down), {"up": (16, 4), "mix": (4, 4), "down": (4, 16)}),
        (lambda p: torch.ones(16, 8) @ p.mix @ torch.ones(8, 16), {"mix": (8, 8)}),  # LoRA-XS
        (
            lambda p: torch.eye(16) @ p.low.tril() @ (p.high.triu() + torch.diag(p.scale.exp())),  # Glow
            {"low": (16, 16), "high": (16, 16), "scale": (16,)},
        ),
    ],
    ids=["from the left", "from the right", "between constants", "triangles"],
)
def test_a_weight_that_is_a_product_of_three_is_made_of_hidden_matrices(made, shapes):
    found = seen(lambda p, x: F.linear(x, made(p)), **shapes)
    expected = {name: "hidden" if len(shape) > 1 else "vector" for name, shape in shapes.items()}
    assert {name: role for name, (role, _) in found.items()} == expected


def test_a_ranking_that_picks_from_what_it_ranked_routes_nothing():
    def part(p, x):  # k-max pooling
        made = F.conv1d(x.mT, p.kernel, padding=1)
        best = made.gather(-1, made.topk(2, -1).indices.sort(-1).values)
        return torch.relu(best.flatten(1) @ p.w)[:, None]

    found = seen(part, kernel=(16, 16, 3), w=(32, 16))
    assert found == {"kernel": ("hidden", "16×48"), "w": ("hidden", "16×32")}
