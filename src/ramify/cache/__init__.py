"""Ref-counted KV blocks: fork, rewind, free and prefix reuse.

A sequence's cache is a `BlockTable` over a `BlockPool`; `KVStore` holds the tensors; `PrefixCache`
remembers prompts. `plain.PlainCache` is the reference twin that tests compare against.
"""

from ramify.cache.blocks import BlockPool, OutOfBlocks
from ramify.cache.prefix import PrefixCache
from ramify.cache.store import DTYPES, KVStore, bytes_per_token
from ramify.cache.table import BlockTable

__all__ = ["BlockPool", "BlockTable", "DTYPES", "KVStore", "OutOfBlocks", "PrefixCache", "bytes_per_token"]
