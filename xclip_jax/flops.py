"""Floating-point operations of the models, counted from their sizes: two a multiplication.

XLA's own count takes the body of a scan once, however often it runs, so it cannot be used. Counted
here are the matrix products; norms, softmaxes and the optimizer, a percent or two, are not.
"""


def transformer(layers: int, width: int, tokens: int) -> int:
    """Returns the operations for one sequence of `tokens` that all attend to each other."""
    return layers * tokens * (24 * width**2 + 4 * width * tokens)


def encode_video(sizes: dict, videos: int) -> int:
    """Returns the operations of a forward pass of the image tower and the temporal encoder."""
    frames, width, embed = sizes["max_frames"], sizes["vision_width"], sizes["embed_dim"]
    patches = (sizes["image_size"] // sizes["patch_size"]) ** 2
    # The last block makes keys and values of all tokens; the rest of it sees the class token alone.
    spared = patches * (18 * width**2 + 4 * width * (patches + 1))
    frame = (
        patch_embedding(sizes)
        + transformer(sizes["vision_layers"], width, patches + 1)
        - spared
        + 2 * width * embed
    )
    layers = sizes["temporal_layers"] if sizes["head"] == "seqTransf" else 0
    lstm = 16 * embed**2 * frames if sizes["head"] == "seqLSTM" else 0
    return videos * (frames * frame + transformer(layers, embed, frames) + lstm)


def patch_embedding(sizes: dict) -> int:
    """Returns the operations that turn one frame's patches into tokens."""
    return 2 * 3 * sizes["image_size"] ** 2 * sizes["vision_width"]


def encode_text(sizes: dict, texts: int) -> int:
    """Returns the operations of a forward pass of the text tower."""
    words, width = sizes["max_words"], sizes["text_width"]
    tower = transformer(sizes["text_layers"], width, words)
    return texts * (tower + 2 * words * width * sizes["embed_dim"])


def similarity(sizes: dict, texts: int, videos: int) -> int:
    """Returns the operations of X-CLIP's four contrasts with all learned matrices."""
    words, frames, embed = sizes["max_words"], sizes["max_frames"], sizes["embed_dim"]
    compared = 2 * embed * (1 + words + frames + words * frames)
    mixed = 2 * (words * frames * (words + frames) + 2 * words**2 + 2 * frames**2)
    projected = 2 * embed**2 * (texts + min(texts * words, videos * frames))
    return texts * videos * (compared + mixed) + projected


def train_step(sizes: dict, batch: int) -> int:
    """Returns the operations of a forward and a backward pass, recomputation not counted.

    The way back costs twice the way there, but no gradient of the pixels is needed.
    """
    forward = encode_text(sizes, batch) + encode_video(sizes, batch)
    forward += similarity(sizes, batch, batch)
    return 3 * forward - batch * sizes["max_frames"] * patch_embedding(sizes)
