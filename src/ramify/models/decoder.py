"""One decoder-only transformer, driven by its config.

Shapes: T tokens of all rows laid end to end, D hidden, H query heads, G key heads, d head_dim, V vocabulary,
K rows picked by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ramify.models.config import ModelConfig
from ramify.models.linear import Linear, Packers, Rows, Table
from ramify.models.rope import angles, rotate

if TYPE_CHECKING:
    from ramify.models.kernels.cuda.forward import DeviceForward
    from ramify.models.kernels.fused import Fused

Turns = tuple[Tensor, Tensor] | None  # cosines and signed sines of the positions


class Attend(Protocol):
    """How tokens look at each other: the decoder does not know where keys and values are kept.

    One over a cache that kernels can read and write by themselves also has `pages()`: the step's slots, its plans by
    window, and the store.
    """

    def __call__(self, layer: int, q_THd: Tensor, k_TGd: Tensor, v_TGd: Tensor) -> Tensor:
        """o_THd; positions are already in q and k."""


class Norm(nn.Module):
    """Root-mean-square norm, or layer norm when the config says so."""

    def __init__(self, config: ModelConfig, size: int) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size)) if config.norm == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None:
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):
    """Projections around `attend`. Queries, keys and values come from one fused weight, in this order."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.rotary = config.rope_layers[layer]
        H, G, d = config.num_heads, config.num_kv_heads, config.head_dim
        self.qkv = Linear(config.hidden_size, (H + 2 * G) * d, config.qkv_bias)
        self.out = Linear(H * d, config.hidden_size, config.out_bias)
        if config.qk_norm:
            self.q_norm = Norm(config, d if config.qk_norm == "head" else H * d)
            self.k_norm = Norm(config, d if config.qk_norm == "head" else G * d)

    def forward(self, x_TD: Tensor, turns: Turns, attend: Attend) -> Tensor:
        config = self.config
        H, G, d = config.num_heads, config.num_kv_heads, config.head_dim
        q, k, v = self.qkv(x_TD).split((H * d, G * d, G * d), -1)
        if config.qk_norm == "all":
            q, k = self.q_norm(q), self.k_norm(k)
        q_THd, k_TGd, v_TGd = q.unflatten(-1, (H, d)), k.unflatten(-1, (G, d)), v.unflatten(-1, (G, d))
        if config.qk_norm == "head":
            q_THd, k_TGd = self.q_norm(q_THd), self.k_norm(k_TGd)
        if self.rotary and turns is not None:
            q_THd, k_TGd = rotate(q_THd, *turns), rotate(k_TGd, *turns)
        return self.out(attend(self.layer, q_THd, k_TGd, v_TGd).flatten(-2))


class MLP(nn.Module):
    """down(act(gate x) * up x), gate and up fused in one weight; down(act(up x)) when not gated."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated, self.activation = config.gated, config.activation
        width = config.intermediate_size * (2 if config.gated else 1)
        self.up = Linear(config.hidden_size, width, config.mlp_bias, stacked=2 if config.gated else 1)
        self.down = Linear(config.intermediate_size, config.hidden_size, config.mlp_bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        if not self.gated:
            return self.down(activate(self.activation, self.up(x_TD)))
        gate, up = self.up(x_TD).chunk(2, -1)
        return self.down(activate(self.activation, gate) * up)


def activate(name: str, x: Tensor) -> Tensor:
    """The config's activation."""
    return F.silu(x) if name == "silu" else F.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")


class Layer(nn.Module):
    """x + attention, then x + MLP, each with a norm before it, after it, or both."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        before, after = config.norm_place != "after", config.norm_place != "before"
        self.attention, self.mlp = Attention(config, index), MLP(config)
        self.attention_in = Norm(config, config.hidden_size) if before else nn.Identity()
        self.attention_out = Norm(config, config.hidden_size) if after else nn.Identity()
        self.mlp_in = Norm(config, config.hidden_size) if before else nn.Identity()
        self.mlp_out = Norm(config, config.hidden_size) if after else nn.Identity()

    def forward(self, x_TD: Tensor, turns: Turns, attend: Attend) -> Tensor:
        x_TD = x_TD + self.attention_out(self.attention(self.attention_in(x_TD), turns, attend))
        return x_TD + self.mlp_out(self.mlp(self.mlp_in(x_TD)))


def _take(module: nn.Module, sources: Mapping[str, Rows]) -> None:
    for name, source in sources.items():
        module.register_parameter(name, nn.Parameter(source[:], requires_grad=False))


class Decoder(nn.Module):
    """A language model's trunk and its vocabulary projection. Parameters start uninitialised.

    num_parameters: all weights; a tied vocabulary projection counts once.
    """

    def __init__(self, config: ModelConfig, vocabulary: bool = True) -> None:
        """`vocabulary` False leaves the projection out: a reward model has none."""
        super().__init__()
        self.config = config
        self.embed = Table(config.vocab_size, config.hidden_size)
        self.positions = None if config.rope else Table(config.max_positions, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_layers))
        self.norm = Norm(config, config.hidden_size)
        own = vocabulary and not config.tie_embeddings
        self.head = Linear(config.hidden_size, config.vocab_size, bias=False) if own else None
        self.tied = vocabulary and config.tie_embeddings
        self.num_parameters = sum(parameter.numel() for parameter in self.parameters())
        self.inv_freq = torch.tensor(config.rope.inv_freq, device="cpu") if config.rope else None
        self.executor = "torch"  # see `executors.assemble`
        self.fused: Fused | DeviceForward | None = None  # all layers in one call, for attention over a paged cache

    def forward(self, tokens_T: Tensor, positions_T: Tensor, attend: Attend) -> Tensor:
        """hidden_TD after the final norm, for the tokens of all rows laid end to end.

        `attend(layer, q_THd, k_TGd, v_TGd) -> o_THd` is called once per layer and decides who sees whom.
        """
        config = self.config
        pages: Callable[[], Any] | None = getattr(attend, "pages", None)
        if self.fused is not None and pages is not None:
            return self.fused(tokens_T, positions_T, pages())
        x_TD = self.embed(tokens_T)
        if config.embed_scale != 1.0:
            x_TD = x_TD * torch.tensor(config.embed_scale, dtype=x_TD.dtype)
        turns: Turns = None
        if config.rope is not None and self.inv_freq is not None:
            turns = angles(self.inv_freq.to(x_TD.device), config.rope.scale, positions_T, x_TD.dtype)
        if self.positions is not None:
            x_TD = x_TD + self.positions(positions_T)
        for layer in self.layers:
            x_TD = layer(x_TD, turns, attend)
        return self.norm(x_TD)

    def logits(self, hidden_KD: Tensor) -> Tensor:
        """logits_KV in float32 (float64 for a float64 model), for hidden states of `forward`."""
        if self.head is not None:
            logits_KV = self.head(hidden_KD)
        else:
            assert self.tied, "a reward model's trunk has no logits"
            logits_KV = F.linear(hidden_KD, self.embed.weight)
        logits_KV = logits_KV.to(torch.promote_types(logits_KV.dtype, torch.float32))
        cap = self.config.logit_softcap
        return logits_KV if cap is None else torch.tanh(logits_KV / cap) * cap

    def fill(self, sources: MutableMapping[str, Rows], packers: Packers | None = None) -> Decoder:
        """Take every parameter out of `sources`, which has them by name; for inference only.

        With `packers`, weights are laid out for speed as they are read, and can no longer be read or trained then. A
        packer that reads a few rows at a time sees to it that the packed form alone is ever there as a whole.
        """
        for path, module in list(self.named_modules()):
            own = {name: sources.pop(f"{path}.{name}") for name, _ in module.named_parameters(recurse=False)}
            if packers is None:
                _take(module, own)
            else:
                self._pack(module, own, packers)
        return self

    def _pack(self, module: nn.Module, own: dict[str, Rows], packers: Packers) -> None:
        """Take one module's parameters, its weight in a packed form if there is one for it."""
        if isinstance(module, Linear):
            weight = own.pop("weight")
            _take(module, own)
            module.pack(packers.projections, weight)
        elif module is self.embed and packers.table is not None:
            self.embed.pack(packers.table, own["weight"])
        else:
            _take(module, own)
        if module is self.embed and self.tied:
            self._project_by_table(packers)

    def _project_by_table(self, packers: Packers) -> None:
        """A vocabulary projection that is the packed table, or beside a table that is not packed a copy of it."""
        product = self.embed.product
        with torch.device("meta"):
            self.head = Linear(self.config.hidden_size, self.config.vocab_size, bias=False)
        self.head.pack(packers.projections if product is None else lambda *_: product, self.embed.weight)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.embed.weight.dtype

    @property
    def nbytes(self) -> int:
        """What all weights take, as they lie in memory."""
        products = {module.product for module in self.modules() if isinstance(module, Linear | Table)}
        return sum(part.nbytes for part in (*self.parameters(), *products) if part is not None)

    @property
    def nbytes_read(self) -> int:
        """Of them those that a step reads: of tables it looks up a few rows."""
        looked_up = 0 if self.positions is None else self.positions.nbytes
        if not self.tied or (self.head is not None and self.head.product is not self.embed.product):
            looked_up += self.embed.nbytes
        return self.nbytes - looked_up

    def flops(self, num_tokens: int, context_tokens_total: int) -> float:
        """Floating-point operations of a forward over `num_tokens` tokens, logits included.

        2 per weight and token (embedding tables are looked up, the vocabulary projection is multiplied), and
        4 * layers * heads * head_dim per pair of a token and a key it may see (q k^T and weights times v);
        `context_tokens_total` is the number of such pairs.
        """
        config = self.config
        looked_up = 0 if self.tied else self.embed.weight.numel()
        looked_up += 0 if self.positions is None else self.positions.weight.numel()
        pairs = 4.0 * config.num_layers * config.num_heads * config.head_dim * context_tokens_total
        return 2.0 * (self.num_parameters - looked_up) * num_tokens + pairs
