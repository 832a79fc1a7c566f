"""Writes tiny seeded image models, as folders of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

WORDS = ["a", "photo", "of", "this", "is", "cat", "dog", "bird", "."]
_TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TEXT = {**_TOWER, **_IDS, "vocab_size": 20, "max_position_embeddings": 16}
_VISION = {**_TOWER, "image_size": 32, "patch_size": 8}
_SIZE = {"height": 32, "width": 32}


def save_vit(folder: Path) -> Path:
    """Writes a classifier of cat, dog and bird with a 64-dimensional embedding."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    names = {0: "cat", 1: "dog", 2: "bird"}
    tower = {**_VISION, "hidden_size": 64, "intermediate_size": 128}
    config = ViTConfig(**tower, id2label=names, label2id={name: index for index, name in names.items()})
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size=_SIZE).save_pretrained(folder)
    return folder


def save_resnet(folder: Path) -> Path:
    """Writes a classifier of four classes with a 16-dimensional embedding."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4)
    ResNetForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 32}).save_pretrained(folder)
    return folder


def save_matcher(folder: Path, kind: Literal["clip", "siglip"]) -> Path:
    """Writes a CLIP or SigLIP that knows the words in `WORDS`."""
    import torch
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    torch.manual_seed(0)
    if kind == "clip":
        model = CLIPModel(CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=16))
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=_SIZE).save_pretrained(folder)
    else:
        model = SiglipModel(SiglipConfig(text_config=_TEXT, vision_config=_VISION))
        # As large as trained ones, so that a wrong scale or a lost bias would change the shares.
        torch.nn.init.constant_(model.logit_scale, 3.0)
        torch.nn.init.constant_(model.logit_bias, -5.0)
        SiglipImageProcessorPil(size=_SIZE).save_pretrained(folder)
    model.save_pretrained(folder)
    _save_tokenizer(folder)
    return folder


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "<end>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", model_max_length=16
    )
    fast.save_pretrained(folder)
