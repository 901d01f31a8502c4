"""How much memory a training step takes, counted from the sizes of the model.

What a forward pass keeps for the backward pass grows with the tokens (units x patches, over both views) and
with nothing else: neither attention nor the loss keeps a matrix of units by units. Letters: D width of the
residual stream, I width of all heads, H hidden width of a feed-forward layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from nuclr_cli.model.config import ModelConfig, Recompute, TokenKind


@dataclass(frozen=True)
class Numbers:
    """Numbers a token that one layer pair (an attention and its feed-forward layer) keeps.

    Attributes:
        activations: In the dtype of the activations.
        statistics: In float32: of normalisations, and a log-sum-exp a head.
        masks: Of dropout.
    """

    activations: int
    statistics: int
    masks: int


def kept_by_a_pair(config: ModelConfig, recompute: Recompute) -> Numbers:
    """What a pair keeps of each token, as PyTorch's own operators on a CPU keep it.

    ===========  ==================================================  =====================
    part         kept                                                forgotten by
    ===========  ==================================================  =====================
    attention    input D, normalised D, q k v 3 I, output 2 I        ``layers`` (but input)
    feed-forward input D                                             ``layers``
    .            normalised D                                        ``ffn``
    .            values and gates 2 H                                ``ffn``
    .            GELU of the gates H, product H                      ``gates``, ``ffn``
    dropout      a mask of D a branch                                ``layers``
    .            a mask of H inside                                  ``gates``, ``ffn``
    ===========  ==================================================  =====================
    """
    d, i, h = config.dim, config.heads * config.head_dim, config.ffn_mult * config.dim
    if recompute == "layers":
        return Numbers(d, 0, 0)
    dropping = config.dropout > 0
    activations, statistics, masks = 3 * d + 5 * i, 2 + config.heads, 2 * d * dropping
    if recompute != "ffn":
        activations, statistics = activations + d + 2 * h, statistics + 2
    if recompute == "none":
        activations, masks = activations + 2 * h, masks + h * dropping
    return Numbers(activations, statistics, masks)


def pairs_of(config: ModelConfig) -> int:
    """Attentions of a model, each with its feed-forward layer."""
    return config.temporal_layers + 2 * config.spatiotemporal_layers


def kept_bytes(
    config: ModelConfig,
    tokens: int,
    recompute: Recompute = "none",
    *,
    kind: TokenKind = "counts",
    element: int = 4,
    mask: int = 4,
) -> int:
    """Bytes that the encoder's forward pass keeps for the backward pass, weights aside; patched tokens.

    Args:
        config: Sizes.
        tokens: Units x patches, of all views.
        recompute: Of the run.
        kind: Of the tokens.
        element: Bytes of an activation.
        mask: Bytes of an element of a dropout mask; on a CPU those of an activation, on a GPU 1.
    """
    pair = kept_by_a_pair(config, recompute)
    a_pair = pair.activations * element + 4 * pair.statistics + pair.masks * mask
    return tokens * (pairs_of(config) * a_pair + config.samples(kind) * element)


@dataclass(frozen=True)
class StepMemory:
    """An estimate of what a process needs at the peak of a training step, in bytes.

    Attributes:
        state: Weights, their gradients and AdamW's moments, float32.
        kept: What the forward pass keeps.
        working: What the layer pair being worked on holds besides, at most.
        gathered: Keys and values of everybody and their gradients, where processes share windows.
    """

    state: int
    kept: int
    working: int
    gathered: int

    @property
    def total(self) -> int:
        return self.state + self.kept + self.working + self.gathered


def step_memory(
    config: ModelConfig,
    units: int,
    recompute: Recompute = "none",
    *,
    kind: TokenKind = "counts",
    processes: int = 1,
    element: int = 2,
    mask: int = 1,
) -> StepMemory:
    """Estimate of a step on one window, both views of which hold `units` units together.

    The working memory is that of one pair computed in full (which `layers` has to do once more in the
    backward pass) and the gradients of its widest tensor and of its input.

    Args:
        config: Sizes.
        units: Of both views: with the reference's unit dropout 1.5 times the population on average, twice
            at most.
        recompute: Of the run.
        kind: Of the tokens.
        processes: That hold the window together.
        element, mask: As in `kept_bytes`; the defaults are those of bf16 on a GPU.
    """
    patches = config.patches(kind)
    tokens = -(-units // processes) * patches
    d, i, h = config.dim, config.heads * config.head_dim, config.ffn_mult * config.dim
    whole, less = kept_by_a_pair(config, "none"), kept_by_a_pair(config, recompute)
    again = (whole.activations - less.activations) * element + (whole.masks - less.masks) * mask
    gradients = (2 * (2 * h) + 2 * d) * element
    weights = pairs_of(config) * (3 * d * i + i * d + 3 * h * d) + config.samples(kind) * d + 2 * d * d
    return StepMemory(
        state=16 * weights,
        kept=kept_bytes(config, tokens, recompute, kind=kind, element=element, mask=mask),
        working=tokens * (again + gradients),
        # As they come, in order, and the gradient, which is added up in float32.
        gathered=0 if processes == 1 else units * patches * 2 * i * (3 * element + 4),
    )
