"""The table of doors."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from bench.fuzzing.door import Door

# By name, so that a process imports what its door needs and nothing else.
DOORS = {
    "pictures": ("media_doors", "Pictures"),
    "sounds": ("media_doors", "Sounds"),
    "feedback": ("import_doors", "FeedbackImport"),
    "items": ("import_doors", "ItemsImport"),
    "interactions": ("import_doors", "InteractionsImport"),
    "config": ("setting_doors", "Config"),
    "messages": ("message_door", "Messages"),
    "manifest": ("model_doors", "Manifest"),
    "load": ("model_doors", "Load"),
    "gguf": ("model_doors", "Gguf"),
    "safetensors": ("model_doors", "Safetensors"),
    "tokenizer": ("text_doors", "TokenizerFile"),
    "template": ("text_doors", "ChatTemplate"),
}
# Doors whose inputs run in a process of their own in the product; see `Door.enter_contained`.
CONTAINED = frozenset({"tokenizer", "template"})


def open_door(name: str, folder: Path) -> Door:
    """Opens the door of a name."""
    module, cls = DOORS[name]
    door: Door = getattr(import_module(f"bench.fuzzing.{module}"), cls)(folder)
    return door
