"""QK-clip: what it bounds, what it leaves alone, and how the largest logits are seen."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from downslope.grouping.view import MatrixView
from downslope.torch import AttentionLogits, Muon, partition, qk_clip, qk_clip_fused


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logits_of(q: torch.Tensor, k: torch.Tensor, x: torch.Tensor, heads: int) -> torch.Tensor:
    """Return every logit, (heads, length, length), one head at a time."""
    dim = len(q) // heads
    group = heads // (len(k) // dim)
    made = []
    for h in range(heads):
        a, b = q[h * dim : (h + 1) * dim], k[(h // group) * dim : (h // group + 1) * dim]
        made.append((x @ a.T) @ (x @ b.T).T / math.sqrt(dim))
    return torch.stack(made)


def test_no_logit_exceeds_tau_and_other_heads_stay() -> None:
    q, k, x = random(12, 10), random(12, 10, seed=1), random(20, 10, seed=2)
    q[4:8] *= 20  # the second of three heads
    before = logits_of(q, k, x, 3)
    largest = before.amax((1, 2))
    tau = float(largest[[0, 2]].max() + 1)
    old = q.clone(), k.clone()
    gamma = qk_clip(q, k, largest, tau=tau)
    after = logits_of(q, k, x, 3)
    assert largest[1] > 5 * tau, "nothing would have been clipped"
    torch.testing.assert_close(after[1], before[1] * tau / largest[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after[1].max(), torch.tensor(tau, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(gamma[1], tau / largest[1])
    for rows in (slice(0, 4), slice(8, 12)):
        assert torch.equal(q[rows], old[0][rows])
        assert torch.equal(k[rows], old[1][rows])
    # both sides carry the same share
    torch.testing.assert_close((q[4:8] / old[0][4:8]).square(), gamma[1].expand(4, 10))
    torch.testing.assert_close((k[4:8] / old[1][4:8]).square(), gamma[1].expand(4, 10))


def test_a_shared_key_stays() -> None:
    q, k, x = random(16, 10), random(8, 10, seed=1), random(20, 10, seed=2)  # 4 query heads on 2 keys
    q[:4] *= 20
    before, old = logits_of(q, k, x, 4), k.clone()
    largest = before.amax((1, 2))
    tau = float(largest[1:].max())
    qk_clip(q, k, largest, tau=tau)
    assert torch.equal(k, old), "the second query head reads this key too"
    after = logits_of(q, k, x, 4)
    assert torch.equal(after[1:], before[1:])
    torch.testing.assert_close(after[0], before[0] * tau / largest[0], rtol=1e-12, atol=1e-12)


def test_biases_scale_with_their_rows() -> None:
    q, k, b, c = random(4, 5), random(4, 5, seed=1), random(4, seed=2), random(4, seed=3)
    whole = [t.clone() for t in (q, k, b, c)]
    qk_clip(q, k, torch.tensor([200.0, 1.0]), tau=50.0, query_bias=b, key_bias=c)
    for made, old in zip((q, k, b, c), whole, strict=True):
        torch.testing.assert_close(made[:2], old[:2] / 2)
        assert torch.equal(made[2:], old[2:])


@pytest.mark.parametrize(
    ("view", "shape", "rows"),
    [
        (MatrixView((0,), (1,), blocks=(4, 4, 4)), (12, 5), ([0, 1], [4, 5])),
        (MatrixView((1,), (0,), blocks=(4, 4, 4)), (5, 12), ([0, 1], [4, 5])),  # a Conv1D's
        (MatrixView((0,), (1,), blocks=(2, 2, 2), repeats=2), (12, 5), ([0, 1], [2, 3])),  # head by head
    ],
    ids=["blocks", "transposed", "interleaved"],
)
def test_fused_projections(
    view: MatrixView, shape: tuple[int, int], rows: tuple[list[int], list[int]]
) -> None:
    weight, bias = random(*shape), random(12, seed=1)
    old, old_bias = weight.clone(), bias.clone()
    gamma = qk_clip_fused(weight, view, torch.tensor([400.0, 3.0]), tau=100.0, bias=bias)
    torch.testing.assert_close(gamma, torch.tensor([0.25, 1.0]))
    made, was = (weight, old) if shape[0] == 12 else (weight.T, old.T)
    clipped = [*rows[0], *rows[1]]
    others = [i for i in range(12) if i not in clipped]
    torch.testing.assert_close(made[clipped], was[clipped] / 2)
    torch.testing.assert_close(bias[clipped], old_bias[clipped] / 2)
    assert torch.equal(made[others], was[others])
    assert torch.equal(bias[others], old_bias[others])


def test_fused_projections_with_shared_keys() -> None:
    weight = random(16, 5)  # 4 query heads of 2, then 2 keys and 2 values
    old = weight.clone()
    qk_clip_fused(
        weight, MatrixView((0,), (1,), blocks=(8, 4, 4)), torch.tensor([1.0, 200.0, 1.0, 1.0]), tau=100
    )
    torch.testing.assert_close(weight[2:4], old[2:4] / 2)
    assert torch.equal(weight[4:], old[4:])
    assert torch.equal(weight[:2], old[:2])


class Attention(nn.Module):
    """Causal attention with a fused projection, as GPT-2 has it."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.qkv, self.out = (
            nn.Linear(16, width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, 16),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.embed(x))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: torch.Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return out


def test_a_model_from_its_partition() -> None:
    torch.manual_seed(0)
    model, x = Attention(), torch.randn(3, 7, 16)
    with torch.no_grad():
        model.qkv.weight[4:8] *= 50  # the second head's query
    found = partition(model, x)
    optimizer = Muon(found, lr=1e-3)
    logits = AttentionLogits()
    with logits:
        model(x).square().mean().backward()
    optimizer.step()
    with AttentionLogits() as seen:
        model(x)
    tau = float(seen[0].sort().values[2]) + 0.1
    qk_clip_fused(model.qkv.weight, found["qkv.weight"].view, seen[0], tau=tau, bias=model.qkv.bias)
    with AttentionLogits() as after:
        model(x)
    assert len(logits) == len(seen) == 1
    assert seen[0].max() > 2 * tau
    assert after[0].max() <= tau * (1 + 1e-5)
    untouched = seen[0] < tau
    torch.testing.assert_close(after[0][untouched], seen[0][untouched])


@pytest.mark.parametrize("mask", ["none", "causal", "bool", "float", "row"])
def test_the_largest_logit_is_that_of_plain_attention(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("downslope.torch.attention._CHUNK", 100)  # a few rows at a time
    q, k = random(2, 4, 9, 6).float(), random(2, 4, 9, 6, seed=1).float()
    keep = torch.ones(9, 9, dtype=torch.bool)
    options: dict = {}
    if mask == "causal":
        keep, options = keep.tril(), {"is_causal": True}
    elif mask == "row":
        keep[:, 5:] = False
        options = {"attn_mask": keep[:1]}
    elif mask != "none":
        keep[:, 5:] = False
        options = {"attn_mask": keep if mask == "bool" else torch.where(keep, 0.5, -torch.inf)}
    with AttentionLogits() as seen:
        F.scaled_dot_product_attention(q, k, q, **options)
    logits = (q @ k.mT / math.sqrt(6)).masked_fill(~keep, -torch.inf)
    torch.testing.assert_close(seen[0], logits.amax((0, 2, 3)))
    if mask != "none":
        assert (q @ k.mT / math.sqrt(6)).amax((0, 2, 3)).gt(seen[0]).any(), "no effect of the mask"


@pytest.mark.parametrize("low", [torch.finfo(torch.float32).min, -1e9, -1e4])
def test_a_mask_of_low_numbers_leaves_out(low: float) -> None:
    q, k = random(1, 2, 9, 6).float(), random(1, 2, 9, 6, seed=1).float()
    k[:, :, 5:] *= 50
    keep = torch.arange(9) < 5
    for dtype in (torch.float32, torch.bfloat16):
        mask = torch.where(keep, 0.0, low).to(dtype).expand(9, 9)
        with AttentionLogits() as seen:
            F.scaled_dot_product_attention(q.to(dtype), k.to(dtype), q.to(dtype), attn_mask=mask)
        plain = q.to(dtype).float() @ k[:, :, :5].to(dtype).float().mT / math.sqrt(6)
        torch.testing.assert_close(seen[0], plain.amax((0, 2, 3)))


def test_a_product_beyond_half_precision() -> None:
    q = torch.full((1, 1, 2, 64), 40.0, dtype=torch.float16)
    with AttentionLogits() as seen, torch.autocast("cpu", torch.float16):
        F.scaled_dot_product_attention(q, q, q)  # 64 · 40² = 102,400
    assert seen[0].tolist() == [64 * 40**2 / 8]


def test_queries_without_heads_have_one() -> None:
    q, k = random(3, 5, 8).float(), random(3, 7, 8, seed=1).float()
    mask = random(3, 5, 7, seed=2) > 0
    with AttentionLogits() as seen:
        F.scaled_dot_product_attention(q, k, k, attn_mask=mask)
        F.scaled_dot_product_attention(q[0], k[0], k[0], is_causal=True)
        F.scaled_dot_product_attention(q, k[:1], k[:1], enable_gqa=True)  # here there are heads
        F.scaled_dot_product_attention(q[:, None], k[None], k[None])  # one query, three keys
        F.scaled_dot_product_attention(q[None], k[None, :, :0], k[None, :, :0])
    logits = q @ k.mT / math.sqrt(8)
    largest = logits.masked_fill(~mask, -torch.inf).max()
    torch.testing.assert_close(seen[0], largest[None])
    torch.testing.assert_close(
        seen[1], logits[0].masked_fill(~torch.ones(5, 7).tril().bool(), -torch.inf).max()[None]
    )
    torch.testing.assert_close(seen[2], (q @ k[0].mT / math.sqrt(8)).amax((1, 2)))
    torch.testing.assert_close(seen[3], (q[:, None] @ k.mT / math.sqrt(8)).amax((0, 2, 3)))
    assert seen[4].tolist() == [-math.inf] * 3


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_sequences_of_several_lengths() -> None:
    rows = [random(3, 2, 8).float(), random(5, 2, 8, seed=1).float()]
    nested = torch.nested.nested_tensor_from_jagged(torch.cat(rows), torch.tensor([0, 3, 8])).transpose(1, 2)
    with AttentionLogits() as seen:
        F.scaled_dot_product_attention(nested, nested, nested)
    each = [(q.transpose(0, 1) @ q.permute(1, 2, 0) / math.sqrt(8)).amax((1, 2)) for q in rows]
    torch.testing.assert_close(seen[0], torch.stack(each).amax(0))


def seen_weights(options: dict, call: dict, x: torch.Tensor, memory: torch.Tensor) -> None:
    """Hold what is seen of `nn.MultiheadAttention` against its own weights: logits, but for a sum a row."""
    torch.manual_seed(0)
    module = nn.MultiheadAttention(32, 4, dtype=torch.float64, **options)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(std=0.2)
    kept = {}
    with AttentionLogits() as logits:
        for need in (False, True):
            _, kept[need] = module(x, memory, memory, need_weights=need, average_attn_weights=False, **call)
    assert len(logits) == 2
    assert torch.equal(logits[0], logits[1])
    w = module.in_proj_weight
    q_weight, k_weight = (module.q_proj_weight, module.k_proj_weight) if w is None else w.chunk(3)[:2]
    b = module.in_proj_bias if module.in_proj_bias is not None else torch.zeros(96, dtype=torch.float64)
    q = (x @ q_weight.T + b[:32]).unflatten(-1, (4, 8))
    k = (memory @ k_weight.T + b[32:64]).unflatten(-1, (4, 8))
    if module.bias_k is not None:
        k = torch.cat([k, module.bias_k.expand(1, k.shape[1], 32).unflatten(-1, (4, 8))])
    if module.add_zero_attn:
        k = torch.cat([k, torch.zeros_like(k[:1])])
    plain = torch.einsum("ibhd,jbhd->bhij", q, k) / math.sqrt(8)
    largest = plain.masked_fill(kept[True] == 0, -torch.inf).amax((0, 2, 3))
    torch.testing.assert_close(logits[0], largest.float())


BOOL = torch.arange(7).expand(5, 7) > torch.arange(5).unsqueeze(1)


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({}, {}),
        ({"bias": False}, {}),
        ({}, {"attn_mask": BOOL}),
        ({}, {"attn_mask": torch.zeros(5, 7, dtype=torch.float64).masked_fill(BOOL, -torch.inf)}),
        ({}, {"attn_mask": torch.stack([BOOL.roll(i, 1) for i in range(12)])}),
        ({}, {"key_padding_mask": torch.arange(7).expand(3, 7) > torch.tensor([[2], [4], [6]])}),
        (
            {"add_bias_kv": True, "add_zero_attn": True},
            {"attn_mask": BOOL, "key_padding_mask": torch.arange(7).expand(3, 7) > 3},
        ),
        ({"kdim": 24, "vdim": 24}, {"attn_mask": BOOL}),
    ],
)
def test_multihead_attention_is_seen(options: dict, call: dict) -> None:
    seen_weights(options, call, random(5, 3, 32), 5 * random(7, 3, options.get("kdim", 32), seed=1))


@pytest.mark.parametrize("training", [True, False])
def test_transformer_layers_are_seen_and_clipped(training: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, dropout=0.0, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2).train(training), torch.randn(2, 5, 32)
    padding = torch.arange(5).expand(2, 5) > torch.tensor([[3], [4]])
    with torch.no_grad():
        for block in model.layers:
            block.self_attn.in_proj_weight[:64] *= 10
        with AttentionLogits() as before:
            model(x, src_key_padding_mask=padding)
        attention = model.layers[0].self_attn
        w, b = attention.in_proj_weight, attention.in_proj_bias
        tau = float(before[0].min())
        qk_clip(w[:32], w[32:64], before[0], tau=tau, query_bias=b[:32], key_bias=b[32:64])
        with AttentionLogits() as after:
            model(x, src_key_padding_mask=padding)
    assert len(before) == len(after) == 2
    assert before[0].max() > 1.2 * tau
    torch.testing.assert_close(after[0], torch.full((4,), tau))


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_a_view_of_one_block_a_head_is_refused(key_heads: int) -> None:
    heads, count = 4, 4 + 2 * key_heads
    weight = random(8 * count, 5)
    old, largest = weight.clone(), torch.full((heads,), 400.0)
    with pytest.raises(ValueError, match=r"expected query as one block of 4 heads.*heads='fused'"):
        qk_clip_fused(weight, MatrixView((0,), (1,), blocks=(8,) * count), largest)
    assert torch.equal(weight, old)


def test_the_split_view_of_an_optimizer_is_refused() -> None:
    model, x = Attention(), torch.randn(3, 7, 16)
    optimizer = Muon(model, x, lr=1e-3, heads="split")
    view = optimizer.view_of(model.qkv.weight)
    with pytest.raises(ValueError, match="not a block a head"):
        qk_clip_fused(model.qkv.weight, view, torch.full((4,), 400.0))
    gamma = qk_clip_fused(model.qkv.weight, partition(model, x)["qkv.weight"].view, torch.full((4,), 400.0))
    assert gamma.tolist() == [0.25] * 4


def test_one_head_and_further_blocks_are_taken() -> None:
    for blocks, heads in (((4, 4, 4), 1), ((4, 4, 4, 4), 4), ((4, 4, 4, 4), 1)):  # the last is a gate
        weight = torch.ones(sum(blocks), 5)
        qk_clip_fused(weight, MatrixView((0,), (1,), blocks=blocks), torch.full((heads,), 400.0))
        assert weight[:, 0].tolist() == [0.5] * 8 + [1.0] * (len(weight) - 8)


def test_a_head_that_is_masked_out_stays() -> None:
    q, k = torch.ones(4, 3), torch.ones(4, 3)
    assert qk_clip(q, k, torch.tensor([-math.inf, 400.0])).tolist() == [1.0, 0.25]


def test_of_several_runs_the_larger_stays() -> None:
    q = random(1, 2, 3, 4)
    logits = AttentionLogits()
    for size in (1.0, 3.0, 2.0):
        with logits:
            F.scaled_dot_product_attention(size * q, q, q)
            F.scaled_dot_product_attention(q, q, q, scale=1.0, enable_gqa=True)
    assert len(logits) == 2
    torch.testing.assert_close(logits[0], 3 * (q @ q.mT / 2).amax((0, 2, 3)).float())
    torch.testing.assert_close(logits[1], (q @ q.mT).amax((0, 2, 3)).float())
    logits.reset()
    assert len(logits) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": 0.0}, "tau = 0.0: expected a number above 0"),
        ({"tau": -1.0}, r"tau = -1.0: expected a number in \[0, inf\)"),
        (
            {"max_logits": torch.ones(5)},
            r"max_logits = \(5,\): expected one for each head, which divide 8",
        ),
        (
            {"max_logits": torch.tensor([1.0, torch.inf, 1.0, 1.0])},
            r"max_logits = tensor\(.*inf.*expected finite numbers",
        ),
        ({"max_logits": torch.tensor([1.0, torch.nan, 1.0, 1.0])}, "nan.*expected finite numbers"),
        ({"key": torch.ones(6, 3)}, r"key = \(6, 3\): expected rows for a divisor of 4 heads of 2"),
        ({"key_bias": torch.ones(3)}, r"key_bias = \(3,\): expected the shape \(8,\)"),
    ],
)
def test_bad_input(change: dict, message: str) -> None:
    query = torch.ones(8, 3)
    given = {"query": query, "key": torch.ones(8, 3), "max_logits": torch.full((4,), 1e3), **change}
    with pytest.raises(ValueError, match=message):
        qk_clip(**given)
    assert torch.equal(query, torch.ones(8, 3))
    with pytest.raises(ValueError, match="expected outputs cut into query, key and value"):
        qk_clip_fused(query, MatrixView((0,), (1,)), torch.ones(4))
