"""Decoder-only transformers from Hugging Face folders: one decoder, its tokenizer, its reward head."""

from ramify.models.attention import DenseAttention, attention, visible
from ramify.models.config import ModelConfig, parse_config
from ramify.models.decoder import Attend, Decoder
from ramify.models.heads import AcceptanceHead, ScalarHead
from ramify.models.loader import Model, load_model
from ramify.models.tokenizer import Tokenizer

__all__ = [
    "AcceptanceHead",
    "Attend",
    "Decoder",
    "DenseAttention",
    "Model",
    "ModelConfig",
    "ScalarHead",
    "Tokenizer",
    "attention",
    "load_model",
    "parse_config",
    "visible",
]
