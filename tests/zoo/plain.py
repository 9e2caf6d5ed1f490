"""Architectures in plain torch: sequences, images, points, graphs, tables, agents."""

# ruff: noqa: E501
from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .entry import Entry, entry

IDS = torch.arange(14).reshape(2, 7) % 40
X = torch.linspace(-1, 1, 2 * 16).reshape(2, 16)
IMAGE = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)


class LanguageModel(nn.Module):
    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = (
            nn.Embedding(40, 16),
            cell(16, 24, 2, batch_first=True),
            nn.Linear(24, 40),
        )

    def forward(self, ids):
        return self.head(self.rnn(self.embed(ids))[0])


RNN = {"embed.weight": "embedding", "head.weight": "output", "rnn.weight_*": "hidden"}


@entry("LSTM language model", RNN, {"rnn.weight_ih_l0": "4 × 24×16", "rnn.weight_hh_l1": "4 × 24×24"})
def lstm() -> Entry:
    return LanguageModel(nn.LSTM), (IDS,), {}


@entry("GRU language model", RNN, {"rnn.weight_ih_l0": "3 × 24×16", "rnn.weight_hh_l1": "3 × 24×24"})
def gru() -> Entry:
    return LanguageModel(nn.GRU), (IDS,), {}


class CellLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wx, self.wh, self.head = (
            nn.Linear(16, 4 * 24),
            nn.Linear(24, 4 * 24, bias=False),
            nn.Linear(24, 3),
        )

    def forward(self, x):
        h = c = x.new_zeros(x.shape[0], 24)
        for t in range(x.shape[1]):
            i, f, g, o = (self.wx(x[:, t]) + self.wh(h)).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


@entry(
    "LSTM written as a loop, on features",
    {"wx.weight": "input", "wh.weight": "hidden", "head.weight": "output"},
    {"wx.weight": "4 × 24×16", "wh.weight": "4 × 24×24"},
)
def cell_loop() -> Entry:
    return CellLoop(), (torch.randn(2, 4, 16),), {}


class Seq2Seq(nn.Module):
    """Additive attention of Bahdanau: scores are a learned vector times a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(40, 16), nn.Embedding(40, 16)
        self.encoder, self.decoder = (
            nn.GRU(16, 24, batch_first=True, bidirectional=True),
            nn.GRUCell(16 + 48, 24),
        )
        self.keys, self.query, self.score = nn.Linear(48, 20), nn.Linear(24, 20), nn.Linear(20, 1, bias=False)
        self.head = nn.Linear(24, 40)

    def forward(self, source, target):
        memory, _ = self.encoder(self.source(source))
        h, out = memory.new_zeros(source.shape[0], 24), []
        for t in range(target.shape[1]):
            a = self.score(torch.tanh(self.keys(memory) + self.query(h)[:, None])).softmax(1)
            h = self.decoder(torch.cat([self.target(target[:, t]), (a * memory).sum(1)], -1), h)
            out.append(self.head(h))
        return torch.stack(out, 1)


@entry("Sequence to sequence with additive attention", {
    "source.weight": "embedding", "target.weight": "embedding", "score.weight": "vector", "head.weight": "output",
    "encoder.weight_*": "hidden", "decoder.weight_*": "hidden", "keys.weight": "hidden", "query.weight": "hidden",
})  # fmt: skip
def seq2seq() -> Entry:
    return Seq2Seq(), (IDS, IDS), {}


class WaveNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 16, 1)
        self.gates = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=2**k, padding=2**k) for k in range(3))
        self.skips = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(3))
        self.mix, self.head = nn.Conv1d(16, 16, 1), nn.Conv1d(16, 8, 1)

    def forward(self, x):
        x, total = self.stem(x), 0
        for gate, skip in zip(self.gates, self.skips, strict=True):
            a, b = gate(x)[..., : x.shape[-1]].chunk(2, 1)
            s = skip(a.tanh() * b.sigmoid())
            x, total = x + s, total + s
        return self.head(self.mix(total.relu()).relu())


@entry(
    "WaveNet",
    {
        "stem.weight": "input",
        "gates.*.weight": "hidden",
        "skips.*.weight": "hidden",
        "mix.weight": "hidden",
        "head.weight": "output",
    },
    {"gates.0.weight": "2 × 16×32"},
)
def wavenet() -> Entry:
    return WaveNet(), (torch.randn(2, 1, 20),), {}


class DiT(nn.Module):
    """Scalable diffusion with transformers: each block is modulated from time and class."""

    def __init__(self, d: int = 32) -> None:
        super().__init__()
        self.patch, self.place = nn.Conv2d(3, d, 4, 4), nn.Parameter(torch.zeros(1, 16, d))
        self.time, self.label = (
            nn.Sequential(nn.Linear(16, d), nn.SiLU(), nn.Linear(d, d)),
            nn.Embedding(10, d),
        )
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "mod": nn.Linear(d, 6 * d),
                    "qkv": nn.Linear(d, 3 * d),
                    "proj": nn.Linear(d, d),
                    "up": nn.Linear(d, 4 * d),
                    "down": nn.Linear(4 * d, d),
                }
            )
            for _ in range(2)
        )
        self.final_mod, self.final = nn.Linear(d, 2 * d), nn.Linear(d, 4 * 4 * 3)

    def forward(self, x, t, y):
        x = self.patch(x).flatten(2).transpose(1, 2) + self.place
        w = t[:, None] * torch.exp(-torch.arange(8.0))
        c = self.time(torch.cat([w.cos(), w.sin()], -1)) + self.label(y)
        for b in self.blocks:
            s1, g1, a1, s2, g2, a2 = b["mod"](F.silu(c)).chunk(6, -1)
            h = F.layer_norm(x, x.shape[-1:]) * (1 + g1[:, None]) + s1[:, None]
            q, k, v = b["qkv"](h).reshape(*x.shape[:2], 3, 4, -1).permute(2, 0, 3, 1, 4)
            h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
            x = x + a1[:, None] * b["proj"](h)
            h = F.layer_norm(x, x.shape[-1:]) * (1 + g2[:, None]) + s2[:, None]
            x = x + a2[:, None] * b["down"](F.gelu(b["up"](h)))
        s, g = self.final_mod(F.silu(c)).chunk(2, -1)
        return self.final(F.layer_norm(x, x.shape[-1:]) * (1 + g[:, None]) + s[:, None])


@entry("DiT", {
    "patch.weight": "input", "place": "embedding", "label.weight": "embedding",
    "time.0.weight": "input",  # reads sines of the raw time
    "final.weight": "output", "*.weight": "hidden",
}, {"blocks.0.mod.weight": "6 × 32×32", "blocks.0.qkv.weight": "3 × 32×32", "final_mod.weight": "2 × 32×32"})  # fmt: skip
def dit() -> Entry:
    return DiT(), (IMAGE, torch.tensor([0.1, 0.7]), torch.tensor([1, 2])), {}


class UNet(nn.Module):
    """A small diffusion UNet: residual blocks, time added by channel, attention at the bottom."""

    class Res(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.GroupNorm(4, i), nn.GroupNorm(4, o)
            self.conv1, self.conv2 = nn.Conv2d(i, o, 3, padding=1), nn.Conv2d(o, o, 3, padding=1)
            self.time, self.skip = nn.Linear(32, o), nn.Conv2d(i, o, 1) if i != o else nn.Identity()

        def forward(self, x, t):
            h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(t))[:, :, None, None]
            return self.skip(x) + self.conv2(F.silu(self.norm2(h)))

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 32))
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
        self.down, self.mid, self.up = self.Res(16, 24), self.Res(24, 24), self.Res(40, 16)
        self.qkv, self.proj = nn.Conv1d(24, 72, 1), nn.Conv1d(24, 24, 1)
        self.norm = nn.GroupNorm(4, 16)

    def forward(self, x, t):
        w = t[:, None] * torch.exp(-torch.arange(8.0))
        t = self.time(torch.cat([w.cos(), w.sin()], -1))
        x0 = self.stem(x)
        h = self.mid(self.down(F.avg_pool2d(x0, 2), t), t)
        q, k, v = self.qkv(h.flatten(2)).chunk(3, 1)
        a = torch.einsum("bct,bcs->bts", q, k).div(24**0.5).softmax(-1)
        h = h + self.proj(torch.einsum("bts,bcs->bct", a, v)).view_as(h)
        h = self.up(torch.cat([F.interpolate(h, scale_factor=2), x0], 1), t)
        return self.head(F.silu(self.norm(h)))


@entry(
    "Diffusion UNet",
    {"time.0.weight": "input", "stem.weight": "input", "head.weight": "output", "*.weight": "hidden"},
    {"qkv.weight": "3 × 24×24"},
)
def unet() -> Entry:
    return UNet(), (IMAGE, torch.tensor([0.1, 0.7])), {}


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.local = nn.Sequential(
            nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 32, 1), nn.ReLU()
        )
        self.tail = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 5))

    def forward(self, points):
        return self.tail(self.local(points).amax(-1))


@entry(
    "PointNet",
    {
        "local.0.weight": "input",
        "local.3.weight": "hidden",
        "tail.0.weight": "hidden",
        "tail.2.weight": "output",
    },
)
def pointnet() -> Entry:
    return PointNet(), (torch.randn(2, 3, 30),), {}


class GCN(nn.Module):
    """Messages along edges, summed with index_add."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 4)])

    def forward(self, x, edges):
        for k, layer in enumerate(self.layers):
            m = layer(x)
            x = torch.zeros_like(m).index_add_(0, edges[1], m[edges[0]])
            x = x.relu() if k < 2 else x
        return x


EDGES = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]])


@entry(
    "Graph convolution",
    {"layers.0.weight": "input", "layers.1.weight": "hidden", "layers.2.weight": "output"},
)
def gcn() -> Entry:
    return GCN(), (torch.randn(6, 12), EDGES), {}


class GAT(nn.Module):
    """Graph attention: a learned vector a head scores source and target; weights are products and sums."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.inner = nn.Linear(12, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.source, self.target = nn.Parameter(torch.randn(1, 4, 4)), nn.Parameter(torch.randn(1, 4, 4))
        self.head = nn.Linear(16, 3)

    def hop(self, x, edges, layer):
        h = layer(x).view(-1, 4, 4)
        s, t = (h * self.source).sum(-1), (h * self.target).sum(-1)
        e = F.leaky_relu(s[edges[0]] + t[edges[1]]).exp()
        z = torch.zeros_like(s).index_add_(0, edges[1], e)
        m = h[edges[0]] * (e / z[edges[1]])[..., None]
        return torch.zeros_like(h).index_add_(0, edges[1], m).flatten(1)

    def forward(self, x, edges):
        return self.head(self.hop(self.hop(x, edges, self.read).relu(), edges, self.inner).relu())


@entry("Graph attention", {
    "read.weight": "input", "inner.weight": "hidden", "head.weight": "output",
    "source": "vector", "target": "vector",  # one vector a head
})  # fmt: skip
def gat() -> Entry:
    return GAT(), (torch.randn(6, 12), EDGES), {}


@entry("Autoencoder", {"0.weight": "input", "6.weight": "output", "*.weight": "hidden"})
def autoencoder() -> Entry:
    model = nn.Sequential(
        nn.Linear(16, 32),
        nn.ReLU(),
        nn.Linear(32, 8),
        nn.ReLU(),
        nn.Linear(8, 32),
        nn.ReLU(),
        nn.Linear(32, 16),
    )
    return model, (X,), {}


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.outer, self.inner = nn.Parameter(torch.randn(32, 16)), nn.Parameter(torch.randn(8, 32))

    def forward(self, x):
        z = F.linear(F.linear(x, self.outer).relu(), self.inner).relu()
        return (z @ self.inner).relu() @ self.outer


@entry(
    "Autoencoder with tied weights", {"outer": "output", "inner": "hidden"}
)  # outer is input and output: the stricter
def tied_autoencoder() -> Entry:
    return TiedAutoencoder(), (X,), {}


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mean, self.scale = nn.Linear(16, 32), nn.Linear(32, 8), nn.Linear(32, 8)
        self.decoder, self.out = nn.Linear(8, 32), nn.Linear(32, 16)

    def forward(self, x):
        h = self.encoder(x).relu()
        m, s = self.mean(h), self.scale(h)
        z = m + torch.randn_like(s) * s.exp()
        y = self.out(self.decoder(z).relu())
        return F.mse_loss(y, x) + (m.square() + s.exp() - s).mean()


@entry("Variational autoencoder", {
    "encoder.weight": "input", "out.weight": "output",
    "mean.weight": "hidden", "scale.weight": "hidden",  # the loss reads them too, but the decoder is fed by them
    "decoder.weight": "hidden",
})  # fmt: skip
def vae() -> Entry:
    return VAE(), (X,), {}


class VQ(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.inner, self.codes, self.decoder = (
            nn.Linear(16, 24),
            nn.Linear(24, 8),
            nn.Embedding(12, 8),
            nn.Linear(8, 16),
        )

    def forward(self, x):
        z = self.inner(self.encoder(x).relu())
        d = (
            z.square().sum(1, keepdim=True)
            - 2 * z @ self.codes.weight.t()
            + self.codes.weight.square().sum(1)
        )
        q = self.codes(d.argmin(1))
        return self.decoder(z + (q - z).detach()), F.mse_loss(q, z.detach())


@entry(
    "Vector-quantized autoencoder",
    {
        "encoder.weight": "input",
        "inner.weight": "hidden",
        "codes.weight": "embedding",
        "decoder.weight": "output",
    },
)
def vq() -> Entry:
    return VQ(), (X,), {}


class GAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Sequential(
            nn.Linear(8, 16 * 4 * 4),
            nn.Unflatten(1, (16, 4, 4)),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, z):
        return self.g(z)


@entry(
    "GAN generator",
    {"g.0.weight": "input", "g.3.weight": "hidden", "g.5.weight": "output"},
    {"g.3.weight": "8×256"},
)
def generator() -> Entry:
    return GAN(), (torch.randn(2, 8),), {}


@entry("GAN discriminator, spectral norm", {
    "0.parametrizations.weight.original": "input", "2.parametrizations.weight.original": "hidden", "5.parametrizations.weight.original": "output",
})  # fmt: skip
def discriminator() -> Entry:
    s = nn.utils.parametrizations.spectral_norm
    model = nn.Sequential(
        s(nn.Conv2d(3, 8, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        s(nn.Conv2d(8, 16, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        s(nn.Linear(16 * 16, 1)),
    )
    return model, (IMAGE,), {}


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.policy, self.value, self.log_std = (
            nn.Linear(32, 6),
            nn.Linear(32, 1),
            nn.Parameter(torch.zeros(6)),
        )

    def forward(self, x):
        h = self.trunk(x)
        return {"policy": self.policy(h), "std": self.log_std.exp(), "value": self.value(h)}


@entry(
    "Actor and critic",
    {
        "trunk.0.weight": "input",
        "trunk.2.weight": "hidden",
        "policy.weight": "output",
        "value.weight": "output",
    },
)
def actor_critic() -> Entry:
    return ActorCritic(), (X,), {}


class Dueling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.v, self.adv = (
            nn.Linear(16, 32),
            nn.Linear(32, 32),
            nn.Linear(32, 1),
            nn.Linear(32, 5),
        )

    def forward(self, x):
        h = self.b(self.a(x).relu()).relu()
        adv = self.adv(h)
        q = self.v(h) + adv - adv.mean(1, keepdim=True)
        return q, q.argmax(1), q.gather(1, q.argmax(1, keepdim=True))


@entry(
    "Dueling Q-network",
    {"a.weight": "input", "b.weight": "hidden", "v.weight": "output", "adv.weight": "output"},
)
def dueling() -> Entry:
    return Dueling(), (X,), {}


class NeRF(nn.Module):
    """Position goes in again halfway, direction at the end: those layers read hidden features as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.again = nn.Linear(18, 32), nn.Linear(32, 32), nn.Linear(50, 32)
        self.density, self.feature, self.view, self.color = (
            nn.Linear(32, 1),
            nn.Linear(32, 32),
            nn.Linear(38, 16),
            nn.Linear(16, 3),
        )

    def forward(self, p, d):
        p = torch.cat([p * 2.0**k for k in range(3)], -1)
        p = torch.cat([p.sin(), p.cos()], -1)
        d = torch.cat([d.sin(), d.cos()], -1)
        h = self.second(self.first(p).relu()).relu()
        h = self.again(torch.cat([p, h], -1)).relu()
        c = self.view(torch.cat([self.feature(h), d], -1)).relu()
        return self.density(h), self.color(c)


@entry("NeRF", {
    "first.weight": "input", "second.weight": "hidden", "again.weight": "hidden", "feature.weight": "hidden", "view.weight": "hidden",
    "density.weight": "output", "color.weight": "output",
})  # fmt: skip
def nerf() -> Entry:
    return NeRF(), (torch.randn(5, 3), torch.randn(5, 3)), {}


class DLRM(nn.Module):
    """Recommendation: many tables, a dense part, and products of all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(20, 8, mode="sum") for _ in range(4))
        self.dense = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(8 + 10, 16), nn.ReLU(), nn.Linear(16, 1))
        self.register_buffer("rows", torch.tril_indices(5, 5, -1))

    def forward(self, batch):
        x = self.dense(batch["dense"])
        t = torch.stack([x, *(table(batch["ids"][:, k : k + 1]) for k, table in enumerate(self.tables))], 1)
        pairs = (t @ t.transpose(1, 2))[:, self.rows[0], self.rows[1]]
        return {"click": torch.sigmoid(self.top(torch.cat([x, pairs], 1)))}


@entry(
    "Recommender with tables",
    {
        "tables.*.weight": "embedding",
        "dense.0.weight": "input",
        "dense.2.weight": "hidden",
        "top.0.weight": "hidden",
        "top.2.weight": "output",
    },
)
def dlrm() -> Entry:
    return DLRM(), ({"dense": torch.randn(2, 6), "ids": torch.arange(8).reshape(2, 4)},), {}


class FTTransformer(nn.Module):
    """Tabular features become tokens: one learned vector for each number, tables for categories."""

    def __init__(self, d: int = 16) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, d)), nn.Parameter(torch.randn(5, d))
        self.categories, self.cls = nn.Embedding(12, d), nn.Parameter(torch.randn(1, 1, d))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(d, 4, 32, batch_first=True, dropout=0.0) for _ in range(2)
        )
        self.head = nn.Linear(d, 2)

    def forward(self, numbers, ids):
        x = numbers[:, :, None] * self.weight + self.bias
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x, self.categories(ids)], 1)
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])


@entry("Tabular transformer", {
    "weight": "vector",  # multiplies one number each
    "bias": "embedding",  # a table added to the tokens
    "categories.weight": "embedding", "cls": "embedding", "head.weight": "output",
    "*.in_proj_weight": "hidden", "*.out_proj.weight": "hidden", "*.linear[12].weight": "hidden",
}, {"layers.0.self_attn.in_proj_weight": "3 × 16×16"})  # fmt: skip
def ft_transformer() -> Entry:
    return FTTransformer(), (torch.randn(2, 5), torch.arange(6).reshape(2, 3)), {}


@entry("Tabular MLP", {"1.weight": "input", "4.weight": "hidden", "7.weight": "output"})
def tabular() -> Entry:
    model = nn.Sequential(
        nn.BatchNorm1d(16),
        nn.Linear(16, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.SiLU(),
        nn.Dropout(0.1),
        nn.Linear(32, 1),
    )
    return model, (X,), {}


class LoRA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(40, 32), nn.Linear(32, 40)
        self.base = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))
        self.a = nn.ParameterList(torch.randn(4, 32) for _ in range(2))
        self.b = nn.ParameterList(torch.zeros(32, 4) for _ in range(2))
        for m in (self.embed, self.head, self.base):
            m.requires_grad_(False)

    def forward(self, ids):
        x = self.embed(ids)
        for w, a, b in zip(self.base, self.a, self.b, strict=True):
            x = x + (w(x) + F.linear(F.linear(x, a), b)).relu()
        return self.head(x)


@entry(
    "LoRA", {"embed.*": "frozen", "head.*": "frozen", "base.*": "frozen", "a.*": "hidden", "b.*": "hidden"}
)
def lora() -> Entry:
    return LoRA(), (IDS,), {}


class Merged(nn.Module):
    """LoRA merged into the weight before it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.w, self.head = nn.Linear(16, 32), nn.Parameter(torch.randn(24, 32)), nn.Linear(24, 3)
        self.a, self.b = nn.Parameter(torch.randn(4, 32)), nn.Parameter(torch.randn(24, 4))

    def forward(self, x):
        return self.head(F.linear(self.read(x).relu(), self.w + 0.5 * self.b @ self.a).relu())


@entry(
    "LoRA, merged",
    {"read.weight": "input", "w": "hidden", "a": "hidden", "b": "hidden", "head.weight": "output"},
    {"a": "4×32", "b": "24×4"},
)
def merged() -> Entry:
    return Merged(), (X,), {}


class TopOne(nn.Module):
    """A mixture of experts in a stack, picked by index: whole matrices are fetched for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.gate, self.head = nn.Linear(16, 24), nn.Linear(24, 4), nn.Linear(24, 3)
        self.up, self.down = nn.Parameter(torch.randn(4, 24, 32)), nn.Parameter(torch.randn(4, 32, 24))

    def forward(self, x):
        x = self.read(x).relu()
        p, e = self.gate(x).softmax(-1).max(-1)
        h = torch.einsum("bd,bdf->bf", x, self.up[e]).relu()
        return self.head(x + p[:, None] * torch.einsum("bf,bfd->bd", h, self.down[e]))


@entry(
    "Experts fetched by index",
    {
        "read.weight": "input",
        "gate.weight": "router",
        "up": "hidden",
        "down": "hidden",
        "head.weight": "output",
    },
    {"up": "4 × 32×24", "down": "4 × 24×32"},
)
def top_one() -> Entry:
    return TopOne(), (X,), {}


class Dispatch(nn.Module):
    """Experts as modules, each given the rows that chose it."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.gate, self.head = nn.Linear(16, 24), nn.Linear(24, 4, bias=False), nn.Linear(24, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(24, 32), nn.GELU(), nn.Linear(32, 24)) for _ in range(4)
        )

    def forward(self, x):
        x = self.read(x).relu()
        w, chosen = self.gate(x).topk(2, -1)
        w, out = w.softmax(-1), torch.zeros_like(x)
        for k, expert in enumerate(self.experts):
            rows, slot = torch.where(chosen == k)
            out.index_add_(0, rows, expert(x[rows]) * w[rows, slot, None])
        return self.head(x + out)


@entry(
    "Experts as modules",
    {"read.weight": "input", "gate.weight": "router", "experts.*.weight": "hidden", "head.weight": "output"},
)
def dispatch() -> Entry:
    return Dispatch(), (torch.randn(32, 16),), {}


class MMoE(nn.Module):
    """Multi-gate mixture: every task weighs all experts by a softmax, none is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 24)) for _ in range(5)
        )
        self.gates = nn.ModuleList(nn.Linear(16, 5) for _ in range(2))
        self.towers = nn.ModuleList(nn.Linear(24, 1) for _ in range(2))

    def forward(self, x):
        e = torch.stack([expert(x) for expert in self.experts], 1)
        return [
            tower((gate(x).softmax(-1)[..., None] * e).sum(1))
            for gate, tower in zip(self.gates, self.towers, strict=True)
        ]


@entry(
    "Multi-gate mixture of experts",
    {
        "experts.*.0.weight": "input",
        "experts.*.2.weight": "hidden",
        "gates.*.weight": "router",
        "towers.*.weight": "output",
    },
)
def mmoe() -> Entry:
    return MMoE(), (X,), {}


class Universal(nn.Module):
    """One layer applied again and again, per-head weights with axes of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(40, 32), nn.Linear(32, 40)
        self.q, self.k, self.v = (nn.Parameter(torch.randn(4, 32, 8)) for _ in range(3))
        self.o = nn.Parameter(torch.randn(4, 8, 32))

    def forward(self, ids):
        x = self.embed(ids)
        for _ in range(3):
            q, k, v = (torch.einsum("btd,hde->bhte", x, w) for w in (self.q, self.k, self.v))
            a = torch.einsum("bhte,bhse->bhts", q, k).softmax(-1)
            x = x + torch.einsum("bhte,hed->btd", torch.einsum("bhts,bhse->bhte", a, v), self.o)
        return self.head(x)


@entry(
    "Shared layer with weights by head",
    {"embed.weight": "embedding", "head.weight": "output", "[qkvo]": "hidden"},
    {"q": "32×32", "o": "32×32"},
)
def universal() -> Entry:
    return Universal(), (IDS,), {}


class Parallel(nn.Module):
    """Attention and MLP from one fused projection with unequal parts, multi-query."""

    def __init__(self, d: int = 32) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(40, d), nn.Linear(d, 40, bias=False)
        self.fused, self.attn, self.ff = nn.Linear(d, d + 8 + 8 + 2 * 64), nn.Linear(d, d), nn.Linear(64, d)

    def forward(self, ids):
        x = self.embed(ids)
        q, k, v, gate = self.fused(F.layer_norm(x, x.shape[-1:])).split([32, 8, 8, 128], -1)
        q = q.unflatten(-1, (4, 8)).transpose(1, 2)
        a = F.scaled_dot_product_attention(
            q, k[:, None].expand(-1, 4, -1, -1), v[:, None].expand(-1, 4, -1, -1)
        )
        a1, a2 = gate.chunk(2, -1)
        x = x + self.attn(a.transpose(1, 2).flatten(2)) + self.ff(F.silu(a1) * a2)
        return self.head(x)


@entry(
    "Parallel block with one fused projection",
    {"embed.weight": "embedding", "head.weight": "output", "*.weight": "hidden"},
    {"fused.weight": "32×32 + 2 × 8×32 + 2 × 64×32"},
)
def parallel() -> Entry:
    return Parallel(), (IDS,), {}


class Siren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList([nn.Linear(2, 24), nn.Linear(24, 24)]), nn.Linear(24, 3)
        self.register_buffer(
            "grid",
            torch.stack(
                torch.meshgrid(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 5), indexing="ij"), -1
            ).flatten(0, 1),
        )

    def forward(self):
        x = self.grid
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        return self.head(x)


@entry(
    "Implicit image of a fixed grid, without inputs",
    {"layers.0.weight": "input", "layers.1.weight": "hidden", "head.weight": "output"},
)
def siren() -> Entry:
    return Siren(), (), {}


class WeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.a, self.b, self.c = (
            norm(nn.Linear(16, 32)),
            norm(nn.Conv1d(32, 32, 3, padding=1)),
            nn.Linear(32, 4),
        )

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()[..., None]).relu().mean(-1))


@entry("Weight normalisation", {
    "*.original0": "vector", "a.parametrizations.weight.original1": "input", "b.parametrizations.weight.original1": "hidden", "c.weight": "output",
}, {"b.parametrizations.weight.original1": "32×96"})  # fmt: skip
def weight_norm() -> Entry:
    return WeightNorm(), (X,), {}


class Capsule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.primary = nn.Conv2d(3, 16, 5, 2), nn.Conv2d(16, 32, 5, 2)
        self.w = nn.Parameter(torch.randn(1, 4, 5, 16, 8))

    def forward(self, x):
        u = self.primary(self.conv(x).relu()).view(x.shape[0], 8, -1).transpose(1, 2)
        u = (self.w @ u[:, :, None, :, None]).squeeze(-1)
        b = torch.zeros(u.shape[:3])
        for _ in range(2):
            s = (b.softmax(2)[..., None] * u).sum(1, keepdim=True)
            b = b + (u * s).sum(-1)
        return s.squeeze(1).norm(dim=-1)


@entry("Capsules", {"conv.weight": "input", "primary.weight": "hidden", "w": "output"}, {"w": "20 × 16×8"})
def capsule() -> Entry:
    return Capsule(), (torch.randn(2, 3, 16, 16),), {}


class CrossDecoder(nn.Module):
    """torch's own decoder layer: one packed weight serves queries from here, keys and values from there."""

    def __init__(self) -> None:
        super().__init__()
        self.ids, self.memory = nn.Embedding(40, 32), nn.Linear(12, 32)
        self.layer, self.head = nn.TransformerDecoderLayer(32, 4, 48, batch_first=True), nn.Linear(32, 40)

    def forward(self, ids, memory):
        return self.head(self.layer(self.ids(ids), self.memory(memory)))


@entry(
    "Decoder with cross-attention",
    {"ids.weight": "embedding", "memory.weight": "input", "head.weight": "output", "layer.*": "hidden"},
    {"layer.self_attn.in_proj_weight": "3 × 32×32", "layer.multihead_attn.in_proj_weight": "3 × 32×32"},
)
def cross_decoder() -> Entry:
    return CrossDecoder(), (IDS, torch.randn(2, 5, 12)), {}


class SetTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.points, self.read = nn.Parameter(torch.randn(1, 6, 32)), nn.Linear(3, 32)
        self.a, self.b = (nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(2))
        self.head = nn.Linear(32, 2)

    def forward(self, x):
        x = self.read(x)
        h, _ = self.a(self.points.repeat(x.shape[0], 1, 1), x, x)
        return self.head(self.b(x, h, h)[0].mean(1))


@entry(
    "Set transformer with inducing points",
    {
        "points": "embedding",
        "read.weight": "input",
        "head.weight": "output",
        "*.weight": "hidden",
        "*.in_proj_weight": "hidden",
    },
)
def set_transformer() -> Entry:
    return SetTransformer(), (torch.randn(2, 9, 3),), {}


class Ode(nn.Module):
    """One field applied again and again: raw data goes in once, its own results ever after."""

    def __init__(self) -> None:
        super().__init__()
        self.field, self.head = (
            nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16)),
            nn.Linear(16, 2),
        )

    def forward(self, x):
        for _ in range(4):
            x = x + 0.1 * self.field(x)
        return self.head(x)


@entry("Neural ordinary differential equation", {"field.*.weight": "hidden", "head.weight": "output"})
def ode() -> Entry:
    return Ode(), (X,), {}


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, a, b):
        return F.cosine_similarity(self.tower(a), self.tower(b))


@entry("Siamese network", {"tower.0.weight": "input", "tower.2.weight": "output"})
def siamese() -> Entry:
    return Siamese(), (X, X.flip(0)), {}


class GatedConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.inner, self.pair, self.head = (
            nn.Linear(16, 64),
            nn.Conv1d(32, 64, 3, padding=1),
            nn.Bilinear(32, 32, 8),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        h = F.glu(self.read(x))
        g = F.glu(self.inner(h[..., None]), 1)[..., 0]
        return self.head(self.pair(h, g).relu())


@entry(
    "Gated convolution and bilinear layer",
    {"read.weight": "input", "inner.weight": "hidden", "pair.weight": "hidden", "head.weight": "output"},
    {"inner.weight": "2 × 32×96", "pair.weight": "8×1024"},
)
def gated_conv() -> Entry:
    return GatedConv(), (X,), {}


class SharedStack(nn.Module):
    """All layers in one parameter, taken by number; bias by layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(40, 16), nn.Linear(16, 40)
        self.w, self.b = nn.Parameter(torch.randn(3, 16, 16)), nn.Parameter(torch.randn(3, 16))

    def forward(self, ids):
        x = self.embed(ids)
        for k in range(3):
            x = x + (x @ self.w[k] + self.b[k]).tanh()
        return self.head(x)


@entry(
    "Layers stacked in one parameter",
    {"embed.weight": "embedding", "head.weight": "output", "w": "hidden", "b": "vector"},
    {"w": "3 × 16×16"},
)
def shared_stack() -> Entry:
    return SharedStack(), (IDS,), {}
