"""Language models from transformers, in small random configurations."""

# ruff: noqa: E501
from __future__ import annotations

import torch
import transformers as hf

from .entry import Entry, entry

IDS = torch.arange(14).reshape(2, 7) % 60


def _causal(config: type, **options: object) -> torch.nn.Module:
    base = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return hf.AutoModelForCausalLM.from_config(config(**(base | options)))


LLAMA = {
    "model.embed_tokens.weight": "embedding",
    "*.[qkvo]_proj.weight": "hidden",
    "*.mlp.*_proj.weight": "hidden",
    "lm_head.weight": "output",
}


@entry("GPT-2", {
    "transformer.wte.weight": "embedding",  # tied with lm_head: lookups decide
    "transformer.wpe.weight": "embedding",
    "*.c_attn.weight": "hidden", "*.c_proj.weight": "hidden", "*.c_fc.weight": "hidden",
}, {"transformer.h.0.attn.c_attn.weight": "3 × 32×32", "transformer.h.0.mlp.c_fc.weight": "64×32"})  # fmt: skip
def gpt2() -> Entry:
    config = hf.GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=4, n_inner=64)
    return hf.GPT2LMHeadModel(config), (), {"input_ids": IDS, "labels": IDS}


@entry("GPT-NeoX", {
    "gpt_neox.embed_in.weight": "embedding", "lm_head.weight": "output",
    "*.query_key_value.weight": "hidden", "*.attention.dense.weight": "hidden", "*.mlp.dense*.weight": "hidden",
}, {"gpt_neox.layers.0.attention.query_key_value.weight": "3 × 32×32"})  # fmt: skip
def neox() -> Entry:
    config = hf.GPTNeoXConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=32,
    )  # fmt: skip
    return hf.GPTNeoXForCausalLM(config), (), {"input_ids": IDS}


@entry("Llama", LLAMA, {"model.layers.0.self_attn.q_proj.weight": "32×32"})
def llama() -> Entry:
    return _causal(hf.LlamaConfig), (), {"input_ids": IDS}


@entry("Qwen 2", LLAMA)
def qwen2() -> Entry:
    return _causal(hf.Qwen2Config), (), {"input_ids": IDS}


@entry("Qwen 3", LLAMA)
def qwen3() -> Entry:
    return _causal(hf.Qwen3Config, head_dim=8), (), {"input_ids": IDS}


@entry("Mistral", LLAMA)
def mistral() -> Entry:
    return _causal(hf.MistralConfig, sliding_window=4), (), {"input_ids": IDS}


@entry("Gemma, tied", {k: v for k, v in LLAMA.items() if k != "lm_head.weight"})
def gemma() -> Entry:
    return _causal(hf.GemmaConfig, head_dim=8, tie_word_embeddings=True), (), {"input_ids": IDS}


@entry("Phi-3, fused", {
    "model.embed_tokens.weight": "embedding", "lm_head.weight": "output",
    "*.qkv_proj.weight": "hidden", "*.o_proj.weight": "hidden", "*.gate_up_proj.weight": "hidden", "*.down_proj.weight": "hidden",
}, {"model.layers.0.self_attn.qkv_proj.weight": "32×32 + 2 × 16×32", "model.layers.0.mlp.gate_up_proj.weight": "2 × 48×32"})  # fmt: skip
def phi3() -> Entry:
    return _causal(hf.Phi3Config), (), {"input_ids": IDS}


EXPERTS = {
    "*.gate.weight": "router",
    "*.experts.gate_up_proj": "hidden",
    "*.experts.down_proj": "hidden",
}


@entry("Mixtral", EXPERTS | LLAMA, {"model.layers.0.mlp.experts.gate_up_proj": "8 × 48×32", "model.layers.0.mlp.experts.down_proj": "4 × 32×48"})  # fmt: skip
def mixtral() -> Entry:
    return _causal(hf.MixtralConfig, num_local_experts=4, num_experts_per_tok=2), (), {"input_ids": IDS}


@entry("Qwen 3 MoE", EXPERTS | LLAMA)
def qwen3_moe() -> Entry:
    options = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8}
    return _causal(hf.Qwen3MoeConfig, **options), (), {"input_ids": IDS}


@entry("DeepSeek V3", EXPERTS | {
    "*.q_a_proj.weight": "hidden", "*.q_b_proj.weight": "hidden", "*.kv_a_proj_with_mqa.weight": "hidden",
    "*.kv_b_proj.weight": "hidden", "*.shared_experts.*.weight": "hidden",
} | LLAMA, {
    # the latent and the rotary key are two projections; keys and values alternate by head
    "model.layers.0.self_attn.kv_a_proj_with_mqa.weight": "16×32 + 4×32",
    "model.layers.0.self_attn.kv_b_proj.weight": "2 × 32×16",
    "model.layers.0.self_attn.q_b_proj.weight": "48×24",
})  # fmt: skip
def deepseek() -> Entry:
    options = {
        "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_shared_experts": 1,
        "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "q_lora_rank": 24, "kv_lora_rank": 16,
        "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8,
    }  # fmt: skip
    return _causal(hf.DeepseekV3Config, **options), (), {"input_ids": IDS}


@entry("GPT-OSS", {
    "*.router.weight": "router", "*.experts.*_proj": "hidden", "*.experts.*_bias": "vector", "*.sinks": "vector",
} | LLAMA, {"model.layers.0.mlp.experts.gate_up_proj": "8 × 48×32"})  # fmt: skip
def gpt_oss() -> Entry:
    options = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 4}
    return _causal(hf.GptOssConfig, **options), (), {"input_ids": IDS}


@entry("Mamba", {
    "backbone.embeddings.weight": "embedding",  # tied with the head
    "*.in_proj.weight": "hidden", "*.x_proj.weight": "hidden", "*.dt_proj.weight": "hidden", "*.out_proj.weight": "hidden",
    "*.conv1d.weight": "vector",  # depthwise
    "*.A_log": "vector",  # rates, used element by element
}, {"backbone.layers.0.mixer.in_proj.weight": "2 × 64×32", "backbone.layers.0.mixer.x_proj.weight": "4×64 + 2 × 8×64"})  # fmt: skip
def mamba() -> Entry:
    config = hf.MambaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8, time_step_rank=4
    )
    return hf.MambaForCausalLM(config), (), {"input_ids": IDS}


@entry("Mamba 2", {
    "backbone.embeddings.weight": "embedding", "lm_head.weight": "output",
    "*.in_proj.weight": "hidden", "*.out_proj.weight": "hidden", "*.conv1d.weight": "vector",
}, {
    # the gate; what goes through the depthwise convolution, values, B and C; and the steps
    "backbone.layers.0.mixer.in_proj.weight": "2 × 64×32 + 2 × 8×32 + 4×32",
})  # fmt: skip
def mamba2() -> Entry:
    config = hf.Mamba2Config(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=4, head_dim=16, n_groups=1,
        chunk_size=4, tie_word_embeddings=False,
    )  # fmt: skip
    return hf.Mamba2ForCausalLM(config), (), {"input_ids": IDS}


@entry("Qwen 3.5", {
    "*.in_proj_*.weight": "hidden", "*.linear_attn.out_proj.weight": "hidden", "*.conv1d.weight": "vector",
} | LLAMA, {"model.layers.0.linear_attn.in_proj_qkv.weight": "2 × 16×32 + 32×32"})  # fmt: skip
def qwen3_5() -> Entry:
    options = {
        "num_hidden_layers": 4, "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    }  # fmt: skip
    return _causal(hf.Qwen3_5TextConfig, **options), (), {"input_ids": IDS}


@entry("RecurrentGemma", {
    "*.linear_*.weight": "hidden", "*.mlp_block.*.weight": "hidden", "*.conv_1d.weight": "vector", "*_gate_weight": "hidden",
    "*_gate_bias": "vector",  # one number a neuron, as (heads, size)
} | {k: v for k, v in LLAMA.items() if k != "lm_head.weight"}, {
    "model.layers.0.temporal_block.rg_lru.input_gate_weight": "4 × 8×8",  # it gates another stack's results
})  # fmt: skip
def recurrent_gemma() -> Entry:
    options = {"num_hidden_layers": 3, "lru_width": 32, "head_dim": 8}
    return _causal(hf.RecurrentGemmaConfig, **options), (), {"input_ids": IDS}


@entry("RWKV", {
    "rwkv.embeddings.weight": "embedding", "head.weight": "output",
    "*.key.weight": "hidden", "*.value.weight": "hidden", "*.receptance.weight": "hidden", "*.output.weight": "hidden",
    "*.time_mix_*": "vector",
})  # fmt: skip
def rwkv() -> Entry:
    config = hf.RwkvConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, context_length=16)
    return hf.RwkvForCausalLM(config), (), {"input_ids": IDS}


@entry("OPT", {
    "model.decoder.embed_tokens.weight": "embedding", "model.decoder.embed_positions.weight": "embedding",
    "*.[qkv]_proj.weight": "hidden", "*.out_proj.weight": "hidden", "*.fc[12].weight": "hidden",
})  # fmt: skip
def opt() -> Entry:
    return _causal(hf.OPTConfig, ffn_dim=48, word_embed_proj_dim=32), (), {"input_ids": IDS}


@entry("BLOOM", {
    "transformer.word_embeddings.weight": "embedding",
    "*.query_key_value.weight": "hidden", "*.dense.weight": "hidden", "*.dense_h_to_4h.weight": "hidden",
    "*.dense_4h_to_h.weight": "hidden",
}, {"transformer.h.0.self_attention.query_key_value.weight": "3 × 32×32"})  # fmt: skip
def bloom() -> Entry:
    config = hf.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    return hf.BloomForCausalLM(config), (), {"input_ids": IDS}


@entry("Falcon, multi-query", {
    "transformer.word_embeddings.weight": "embedding",
    "*.query_key_value.weight": "hidden", "*.dense.weight": "hidden", "*.dense_h_to_4h.weight": "hidden",
    "*.dense_4h_to_h.weight": "hidden",
}, {"transformer.h.0.self_attention.query_key_value.weight": "32×32 + 2 × 8×32"})  # fmt: skip
def falcon() -> Entry:
    config = hf.FalconConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    return hf.FalconForCausalLM(config), (), {"input_ids": IDS}


@entry("BERT, masked", {
    "bert.embeddings.*_embeddings.weight": "embedding",  # the decoder is tied with the words
    "*.query.weight": "hidden", "*.key.weight": "hidden", "*.value.weight": "hidden", "*.dense.weight": "hidden",
})  # fmt: skip
def bert() -> Entry:
    config = hf.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=32,
    )  # fmt: skip
    return hf.BertForMaskedLM(config), (), {"input_ids": IDS}


@entry("BERT, classifier", {
    "bert.embeddings.*_embeddings.weight": "embedding", "classifier.weight": "output",
    "*.query.weight": "hidden", "*.key.weight": "hidden", "*.value.weight": "hidden", "*.dense.weight": "hidden",
})  # fmt: skip
def bert_classifier() -> Entry:
    config = hf.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=32, num_labels=5,
    )  # fmt: skip
    return hf.BertForSequenceClassification(config), (), {"input_ids": IDS}


@entry("DistilBERT, question answering", {
    "distilbert.embeddings.*_embeddings.weight": "embedding", "qa_outputs.weight": "output",
    "*.[qkv]_lin.weight": "hidden", "*.out_lin.weight": "hidden", "*.lin[12].weight": "hidden",
})  # fmt: skip
def distilbert() -> Entry:
    config = hf.DistilBertConfig(
        vocab_size=64, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=32
    )
    return hf.DistilBertForQuestionAnswering(config), (), {"input_ids": IDS}


@entry("T5", {
    "shared.weight": "embedding",  # tied with the head, and shared by encoder and decoder
    "*.relative_attention_bias.weight": "embedding",  # a table of positions by head
    "*.[qkvo].weight": "hidden", "*.w[io].weight": "hidden",
})  # fmt: skip
def t5() -> Entry:
    config = hf.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0,
        tie_word_embeddings=True,
    )  # fmt: skip
    return hf.T5ForConditionalGeneration(config), (), {"input_ids": IDS, "labels": IDS}


@entry("BART", {
    "model.shared.weight": "embedding", "*.embed_positions.weight": "embedding",
    "*.[qkv]_proj.weight": "hidden", "*.out_proj.weight": "hidden", "*.fc[12].weight": "hidden",
})  # fmt: skip
def bart() -> Entry:
    config = hf.BartConfig(
        vocab_size=64, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=32,
    )  # fmt: skip
    return hf.BartForConditionalGeneration(config), (), {"input_ids": IDS, "labels": IDS}


@entry("Switch Transformer", {
    "shared.weight": "unused",  # untied: each stack has a table of its own
    "*.embed_tokens.weight": "embedding", "*.relative_attention_bias.weight": "embedding", "*.router.classifier.weight": "router",
    "*.[qkvo].weight": "hidden", "*.w[io].weight": "hidden", "lm_head.weight": "output",
})  # fmt: skip
def switch() -> Entry:
    config = hf.SwitchTransformersConfig(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4, num_experts=2,
        num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, decoder_start_token_id=0, tie_word_embeddings=False,
        router_jitter_noise=0.0, expert_capacity=64,
    )  # fmt: skip
    ids = torch.arange(120).reshape(6, 20) % 60  # enough of them for every expert to be chosen
    return hf.SwitchTransformersForConditionalGeneration(config), (), {"input_ids": ids, "labels": ids}
