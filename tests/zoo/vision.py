"""Models of images and sound from timm and transformers, in small random configurations."""

# ruff: noqa: E501
from __future__ import annotations

import timm
import torch
import transformers as hf

from .entry import Entry, entry

IMAGE = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
VIT = {
    "patch_embed.proj.weight": "input", "cls_token": "embedding", "pos_embed": "embedding", "head.weight": "output",
    "*.attn.qkv.weight": "hidden", "*.attn.proj.weight": "hidden", "*.mlp.fc[12].weight": "hidden",
}  # fmt: skip


def _timm(name: str, **options: object) -> Entry:
    return timm.create_model(name, pretrained=False, num_classes=10, **options), (IMAGE,), {}


SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}


@entry("timm ViT", VIT, {"blocks.0.attn.qkv.weight": "3 × 32×32", "patch_embed.proj.weight": "32×192"})
def vit() -> Entry:
    return _timm("vit_tiny_patch16_224", **SMALL_VIT)


@entry("timm DeiT, distilled", VIT | {"dist_token": "embedding", "head_dist.weight": "output"})
def deit() -> Entry:
    return _timm("deit_tiny_distilled_patch16_224", **SMALL_VIT)


@entry(
    "timm BEiT",
    VIT | {"*.relative_position_bias_table": "embedding"},
    {"blocks.0.attn.qkv.weight": "3 × 32×32"},
)
def beit() -> Entry:
    return _timm("beit_base_patch16_224", **SMALL_VIT)


@entry("timm EVA", VIT | {"*.mlp.fc1_[gx].weight": "hidden"})
def eva() -> Entry:
    return _timm("eva02_tiny_patch14_224", **SMALL_VIT)


@entry("timm ViT with registers and attention pooling", VIT | {
    "reg_token": "embedding", "attn_pool.latent": "embedding",  # the learned query of the pooling
    "attn_pool.q.weight": "hidden", "attn_pool.kv.weight": "hidden", "attn_pool.proj.weight": "hidden", "attn_pool.mlp.*.weight": "hidden",
}, {"attn_pool.kv.weight": "2 × 32×32"})  # fmt: skip
def siglip() -> Entry:
    return _timm("vit_base_patch16_siglip_224", global_pool="map", reg_tokens=2, **SMALL_VIT)


@entry(
    "timm ResNet-18",
    {
        "conv1.weight": "input",
        "fc.weight": "output",
        "*.conv*.weight": "hidden",
        "*.downsample.0.weight": "hidden",
    },
)
def resnet() -> Entry:
    return _timm("resnet18", block_args=None, in_chans=3)


@entry(
    "timm ResNeXt",
    {
        "conv1.weight": "input",
        "fc.weight": "output",
        "*.conv*.weight": "hidden",
        "*.downsample.0.weight": "hidden",
    },
    {"layer1.0.conv2.weight": "32 × 4×36"},
)
def resnext() -> Entry:
    return _timm("resnext50_32x4d", layers=[1, 1, 1, 1])


@entry("timm ConvNeXt", {
    "stem.0.weight": "input", "head.fc.weight": "output", "*.conv_dw.weight": "vector", "*.downsample.1.weight": "hidden",
    "*.mlp.fc[12].weight": "hidden",
})  # fmt: skip
def convnext() -> Entry:
    return _timm("convnext_atto", depths=(1, 1, 1, 1), dims=(16, 24, 32, 40))


@entry("timm EfficientNet", {
    "conv_stem.weight": "input", "classifier.weight": "output", "*.conv_dw.weight": "vector", "*.conv_pw*.weight": "hidden",
    "*.se.conv_*.weight": "hidden",  # squeeze and excitation: a small MLP on pooled channels
    "conv_head.weight": "hidden",
})  # fmt: skip
def efficientnet() -> Entry:
    return _timm("efficientnet_b0")


@entry("timm MobileNet v2", {
    "conv_stem.weight": "input", "classifier.weight": "output", "*.conv_dw.weight": "vector", "*.conv_pw*.weight": "hidden", "conv_head.weight": "hidden",
})  # fmt: skip
def mobilenet() -> Entry:
    return _timm("mobilenetv2_050")


@entry("timm MobileNet v3", {
    "conv_stem.weight": "input", "classifier.weight": "output", "*.conv_dw.weight": "vector", "*.conv_pw*.weight": "hidden",
    "*.se.conv_*.weight": "hidden", "conv_head.weight": "hidden", "blocks.5.0.conv.weight": "hidden",
})  # fmt: skip
def mobilenet3() -> Entry:
    return _timm("mobilenetv3_small_050")


@entry("timm Swin", {
    "patch_embed.proj.weight": "input", "head.fc.weight": "output", "*.relative_position_bias_table": "embedding",
    "*.attn.qkv.weight": "hidden", "*.attn.proj.weight": "hidden", "*.mlp.fc[12].weight": "hidden", "*.downsample.reduction.weight": "hidden",
}, {"layers.0.blocks.0.attn.qkv.weight": "3 × 16×16"})  # fmt: skip
def swin() -> Entry:
    return _timm(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        window_size=4,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 4),
    )


@entry("timm Swin v2", {
    "patch_embed.proj.weight": "input", "head.fc.weight": "output",
    "*.cpb_mlp.0.weight": "input",  # contracted with raw coordinates, two of them
    "*.cpb_mlp.2.weight": "hidden", "*.logit_scale": "vector",
    "*.attn.qkv.weight": "hidden", "*.attn.proj.weight": "hidden", "*.mlp.fc[12].weight": "hidden", "*.downsample.reduction.weight": "hidden",
})  # fmt: skip
def swin2() -> Entry:
    return _timm(
        "swinv2_tiny_window8_256", img_size=32, window_size=4, embed_dim=32, depths=(2, 2), num_heads=(4, 4)
    )


@entry("timm MLP-Mixer", {
    "stem.proj.weight": "input", "head.weight": "output", "*.mlp_tokens.fc[12].weight": "hidden", "*.mlp_channels.fc[12].weight": "hidden",
})  # fmt: skip
def mixer() -> Entry:
    return timm.models.MlpMixer(10, img_size=32, patch_size=8, embed_dim=32, num_blocks=2), (IMAGE,), {}


@entry(
    "timm DenseNet",
    {
        "features.conv0.weight": "input",
        "classifier.weight": "output",
        "*.conv*.weight": "hidden",
        "*.conv.weight": "hidden",
    },
)
def densenet() -> Entry:
    return _timm("densenet121", block_config=(2, 2), growth_rate=8, bn_size=2)


@entry(
    "timm RegNet",
    {
        "stem.conv.weight": "input",
        "head.fc.weight": "output",
        "*.conv*.weight": "hidden",
        "*.se.fc*.weight": "hidden",
        "*.downsample.conv.weight": "hidden",
    },
)
def regnet() -> Entry:
    return _timm("regnety_002")


@entry("timm MaxViT", {
    "stem.conv1.weight": "input", "stem.conv2.weight": "hidden", "head.fc.weight": "output", "head.pre_logits.fc.weight": "hidden",
    "*.conv2_kxk.weight": "vector",  # depthwise
    "*.rel_pos.mlp.fc1.weight": "input",  # reads raw coordinates
    "stages.[01].*.rel_pos.mlp.fc2.weight": "vector",  # one output a head, of which there are one and two
    "*.rel_pos.mlp.fc2.weight": "hidden",
    "*.conv*.weight": "hidden", "*.se.fc*.weight": "hidden", "*.shortcut.expand.weight": "hidden", "*.rel_pos.relative_position_bias_table": "embedding",
    "*.attn.qkv.weight": "hidden", "*.attn.proj.weight": "hidden", "*.mlp.fc[12].weight": "hidden",
}, {"stages.0.blocks.0.attn_block.attn.qkv.weight": "3 × 32×32"})  # fmt: skip
def maxvit() -> Entry:
    model, _, _ = _timm("maxvit_rmlp_pico_rw_256", img_size=64)
    return model, (torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64),), {}


@entry(
    "timm PoolFormer",
    {
        "stem.conv.weight": "input",
        "head.fc.fc1.weight": "hidden",
        "head.fc.fc2.weight": "output",
        "*.mlp.fc[12].weight": "hidden",
        "*.downsample.conv.weight": "hidden",
    },
)
def poolformer() -> Entry:
    return timm.models.metaformer.MetaFormer(num_classes=10, depths=(1, 1), dims=(16, 32)), (IMAGE,), {}


@entry("HF ViT", {
    "vit.embeddings.patch_embeddings.projection.weight": "input", "vit.embeddings.cls_token": "embedding", "vit.embeddings.position_embeddings": "embedding", "classifier.weight": "output",
    "*.weight": "hidden",
})  # fmt: skip
def hf_vit() -> Entry:
    config = hf.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        num_labels=5,
    )
    return hf.ViTForImageClassification(config), (), {"pixel_values": IMAGE}


@entry("CLIP", {
    "text_model.embeddings.*": "embedding", "vision_model.embeddings.patch_embedding.weight": "input", "vision_model.embeddings.position_embedding.weight": "embedding",
    "text_projection.weight": "output", "visual_projection.weight": "output",  # both leave the model: their products are the logits
    "*.[qkv]_proj.weight": "hidden", "*.out_proj.weight": "hidden", "*.mlp.fc[12].weight": "hidden",
})  # fmt: skip
def clip() -> Entry:
    text = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 16,
        "eos_token_id": 2,
        "bos_token_id": 1,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
    }
    config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    ids = torch.arange(14).reshape(2, 7) % 60
    return hf.CLIPModel(config), (), {"input_ids": ids, "pixel_values": IMAGE, "return_loss": True}


@entry("Whisper", {
    "model.encoder.conv1.weight": "input", "model.encoder.conv2.weight": "hidden",
    "model.encoder.embed_positions.weight": "frozen",  # sinusoids, kept as a parameter that is not trained
    "model.decoder.embed_positions.weight": "embedding", "model.decoder.embed_tokens.weight": "embedding",
    "*.[qkv]_proj.weight": "hidden", "*.out_proj.weight": "hidden", "*.fc[12].weight": "hidden",
})  # fmt: skip
def whisper() -> Entry:
    config = hf.WhisperConfig(
        vocab_size=64, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
        decoder_ffn_dim=48, num_mel_bins=16, max_source_positions=16, max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    ids = torch.arange(14).reshape(2, 7) % 60
    return (
        hf.WhisperForConditionalGeneration(config),
        (),
        {"input_features": torch.randn(2, 16, 32), "decoder_input_ids": ids},
    )


@entry("wav2vec 2", {
    "wav2vec2.feature_extractor.conv_layers.0.conv.weight": "input", "wav2vec2.feature_extractor.*.conv.weight": "hidden",
    "wav2vec2.feature_projection.projection.weight": "hidden",
    "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0": "vector",  # the length of a weight-normed kernel
    "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1": "hidden",
    "wav2vec2.masked_spec_embed": "vector", "lm_head.weight": "output",
    "*.[qkv]_proj.weight": "hidden", "*.out_proj.weight": "hidden", "*.intermediate_dense.weight": "hidden", "*.output_dense.weight": "hidden",
}, {"wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1": "2 × 16×64"})  # fmt: skip
def wav2vec() -> Entry:
    config = hf.Wav2Vec2Config(
        vocab_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(16, 16), conv_stride=(5, 2),
        conv_kernel=(10, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, layerdrop=0.0, mask_time_prob=0.0,
    )  # fmt: skip
    return hf.Wav2Vec2ForCTC(config), (), {"input_values": torch.randn(2, 400)}


@entry("SegFormer", {
    "segformer.stages.0.patch_embeddings.proj.weight": "input",
    "*.dwconv.dwconv.weight": "vector", "decode_head.classifier.weight": "output", "*.weight": "hidden",
})  # fmt: skip
def segformer() -> Entry:
    config = hf.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[2, 4],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        num_labels=5,
    )
    return hf.SegformerForSemanticSegmentation(config), (), {"pixel_values": IMAGE}


@entry("DETR decoder heads", {
    "model.backbone.*": "frozen",  # the implementation trains no backbone that is not loaded
    "model.query_position_embeddings.weight": "embedding", "class_labels_classifier.weight": "output",
    "bbox_predictor.layers.2.weight": "output", "bbox_predictor.layers.*.weight": "hidden", "*.weight": "hidden",
})  # fmt: skip
def detr() -> Entry:
    backbone = hf.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )
    config = hf.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, num_queries=5, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_labels=4,
    )  # fmt: skip
    return hf.DetrForObjectDetection(config), (), {"pixel_values": IMAGE}


@entry("Perceiver", {
    "perceiver.embeddings.latents": "embedding",  # the learned array that reads the input
    "perceiver.input_preprocessor.embeddings.weight": "embedding", "perceiver.input_preprocessor.position_embeddings.weight": "embedding",
    "*.output_position_encodings.position_embeddings": "embedding", "*.output_position_embeddings": "embedding",
    "perceiver.decoder.decoder.final_layer.weight": "output", "*.weight": "hidden",
})  # fmt: skip
def perceiver() -> Entry:
    config = hf.PerceiverConfig(
        num_latents=6, d_latents=32, d_model=24, num_blocks=1, num_self_attends_per_block=2, num_self_attention_heads=4, num_cross_attention_heads=4,
        vocab_size=64, max_position_embeddings=16, num_labels=5,
    )  # fmt: skip
    return hf.PerceiverForSequenceClassification(config), (), {"inputs": torch.arange(14).reshape(2, 7) % 60}


@entry("EnCodec", {
    "*.original0": "vector",  # the lengths of weight-normed kernels
    "encoder.layers.0.conv.parametrizations.weight.original1": "input", "decoder.layers.9.conv.parametrizations.weight.original1": "output",
    "*.original1": "hidden", "*.lstm.weight_*": "hidden",
}, {"encoder.layers.7.lstm.weight_ih_l0": "4 × 32×32"})  # fmt: skip
def encodec() -> Entry:
    config = hf.EncodecConfig(
        num_filters=8, upsampling_ratios=[4, 2], codebook_size=16, hidden_size=16, codebook_dim=16, num_lstm_layers=1, sampling_rate=800,
        target_bandwidths=[1.5],
    )  # fmt: skip
    return hf.EncodecModel(config), (), {"input_values": torch.randn(1, 1, 800)}
