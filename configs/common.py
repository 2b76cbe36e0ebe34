"""Every default, and the argument behind the colon of `--config NAME:key=value,...`.

A config file shows only what differs from here. Keys whose value is None are filled in from the
architecture (`model.arch`) or, for the vocabulary's size, from the vocabulary.
"""

from types import SimpleNamespace

import ml_collections
from ml_collections.config_dict import placeholder


def get_config(model: str = "xclip") -> ml_collections.ConfigDict:
    """Returns the defaults of `model`: as released, on CLIP ViT-B/32."""
    config = ml_collections.ConfigDict()
    config.seed = 42  # the references'
    config.epochs = 5.0
    # GPUs of the reference, whose sampler repeats pairs until they can be shared out evenly: a few
    # steps more an epoch. 1 repeats none.
    config.reference_gpus = 1
    config.batch_size = 128  # of the whole run, however many devices share it
    # Most pairs, of the whole run, whose activations are in memory at once; the loss is the whole
    # batch's all the same, for a third more compute. 0: all of them.
    config.micro_batch = 0
    config.eval_batch_size = 64
    config.fsdp = 1  # devices that share each parameter; 1 keeps all of them on each
    config.eval_every_steps = placeholder(int)  # None: once an epoch
    config.eval_every_steps = 500
    config.save_every_steps = 500
    config.report_every_steps = 20
    # Whether XLA is kept to GPU kernels that give the same bits at each run, which are slower. CPUs
    # have no others.
    config.deterministic = False
    # Updates in a row that are skipped where loss, gradients or new parameters are not finite; the
    # next one ends the run, with 0 the first.
    config.skip_nonfinite_updates = 0
    config.keep_checkpoints = 2  # the latest ones; the best by best_metric is kept beside them
    # What "best" means: t2v/r1, v2t/r5, t2v/mean_rank, ...; of ranks the lowest is best.
    config.best_metric = "t2v/r1"
    # Which checkpoint the run is judged by: the last, or the best by that on val or on test.
    config.select_on = "last"

    config.init = ml_collections.ConfigDict()
    config.init.clip = ""  # a CLIP's weight file to start from; train --from-clip FILE
    # What may differ from the weights' own, whose shapes are then changed: some of image_size,
    # patch_size, context_length, max_words, max_frames.
    config.init.resize = ()

    config.data = ml_collections.ConfigDict()
    config.data.dir = ""  # the folder that `xclip-jax build` wrote
    config.data.train_split = "train"
    config.data.eval_split = "test"
    config.data.val_split = ""  # for select_on=val, where a data set has one
    config.data.held_out = 0  # training videos to hold out as val, where it has none
    config.data.twin_split = ""  # the evaluation clips played backwards, where a data set has them
    config.data.vocab = ""  # a vocabulary file; searched for where empty
    config.data.max_words = 32
    config.data.max_frames = 12
    # How many of them are encoded one by one: all (None), or fewer where no video has more. What is
    # left is padding, one image, and encoded once.
    config.data.encoded_frames = placeholder(int)
    # Which frames the shards must be able to give: clip4clip_1fps, native_5fps, uniform_12 and
    # their like; empty for all that are stored.
    config.data.frame_policy = ""
    config.data.frame_divisor = 1  # one frame in so many, CLIP2Video's feature_framerate
    # Captions of each video in a batch, which encodes the video once; and whether other texts of a
    # video count as negatives where they meet in a batch, as in the references. They do not where a
    # video has several.
    config.data.captions_per_video = 1
    config.data.same_video_negatives = True
    config.data.frame_jitter = False  # moves frames at random in training, as CLIP2Video does
    config.data.slice_position = 2  # of more frames: 0 the first, 1 the last, 2 evenly spread
    config.data.train_frame_order = 0  # 0 as they are, 1 reversed, 2 shuffled by config.seed
    config.data.eval_frame_order = 0

    config.model = ml_collections.ConfigDict()
    config.model.name = model
    config.model.arch = "vit_b32"  # vit_b32, vit_b16, vit_l14, or custom: all sizes given below
    for size in (
        "embed_dim",
        "image_size",
        "patch_size",
        "vision_layers",
        "vision_width",
        "text_width",
        "text_layers",
        "context_length",
        "vocab_size",
    ):
        config.model[size] = placeholder(int)
    config.model.head = "seqTransf"  # meanP, seqTransf, seqLSTM; clip4clip: or tightTransf
    config.model.temporal_layers = 4  # the released code's; the paper's text says 3
    config.model.linear_patch = "2d"
    config.model.activation = placeholder(str)  # quick_gelu, or gelu: most of open_clip's weights
    config.model.dtype = "float32"  # or bfloat16 compute; parameters stay float32
    # Of each block the way back finds everything (none), its matrix products (dots) or its input
    # alone (full): a third more compute than dots for a ninth of the memory.
    config.model.remat = "dots"
    for option, value in _options(model).items():
        config.model[option] = value

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "bertadam"  # or bertadam_fp16, adamw: docs/parity.md says when
    config.optimizer.learning_rate = 1e-4
    config.optimizer.clip_multiplier = 1e-3  # CLIP's own weights learn a thousand times slower
    config.optimizer.warmup_fraction = 0.1
    config.optimizer.weight_decay = 0.2
    config.optimizer.freeze_layers = 0  # blocks below it, and CLIP's embeddings; -1: nothing
    # Of the gradients of both towers and the temporal encoder; the references' N GPUs make it 1/N.
    config.optimizer.encoder_gradient_scale = 1.0
    return config


def _options(model: str) -> dict:
    """Returns what only this model has."""
    match model:
        case "xclip":
            return {
                "contrasts": ("video_sentence", "video_word", "sentence_frame", "frame_word"),
                # or mean_mean, mean_max, max_mean, max_max, transformer: the paper's ablations
                "aggregation": "aosm",
                "temperature": 0.01,
                "learned_mixing": True,  # the released code's eight matrices; the paper has none
                "mask_padding": False,  # True keeps padded words and frames out of every softmax
            }
        case "clip4clip":
            # With tightTransf: GPUs of the reference, whose negatives stayed apart; 1 is all.
            return {"negative_groups": 1}
        case "clip2video":
            return {
                "difference": "sigmoid_selfA",  # or none, plain, sigmoid_mlp
                "alignment": "TAB_TDB",  # or none, plain, TAB
                "centers": 5,  # the released models'; that of VATEX has 7
                "center_weight": 0.5,  # of the global score; the aligned one has the rest
                "tiled_mask_bug": False,  # True for checkpoints of the release, trained with it
            }
    raise ValueError(f"config argument model={model}: expected xclip, clip4clip or clip2video.")


def parse_arg(arg: str, **defaults) -> SimpleNamespace:
    """Returns `defaults` overridden by "key=value,key=value"; a bare key means True.

    Values take the type of the default.
    """
    values = dict(defaults)
    for item in filter(None, arg.split(",")):
        key, _, text = item.partition("=")
        if key not in defaults:
            raise ValueError(
                f"config argument {key!r} is unknown: this config takes"
                f" {', '.join(defaults) or 'none'}."
            )
        kind = type(defaults[key])
        try:
            if kind is bool:
                values[key] = {"": True, "true": True, "false": False}[text.lower()]
            elif not text:
                raise ValueError(item)
            else:
                values[key] = kind(text)
        except (KeyError, ValueError):
            raise ValueError(
                f"config argument {item!r}: expected {key}=<{kind.__name__}>."
            ) from None
    return SimpleNamespace(**values)


# What every benchmark's config takes; a head left out is that of the model's published recipe.
RECIPE = {"model": "xclip", "arch": "vit_b32", "head": "", "optimizer": "", "smoke": False}
HEADS = {"xclip": "seqTransf", "clip4clip": "meanP", "clip2video": "seqTransf"}


def choose(key: str, value: str, choices: dict):
    """Returns what a config argument stands for."""
    if value not in choices:
        raise ValueError(f"config argument {key}={value}: expected {' or '.join(choices)}.")
    return choices[value]


def benchmark(
    arg: SimpleNamespace,
    name: str,
    *,
    splits: tuple[str, str, str],
    words: int,
    frames: int,
    epochs: int,
    batches: dict[str, tuple[int, int]],
    gpus: int,
) -> ml_collections.ConfigDict:
    """Returns a published recipe (SPEC 13) on a benchmark, for weights that come from CLIP's.

    Args:
        arg: the parsed argument, `RECIPE` and more.
        name: of the data set.
        splits: to train on, to choose a checkpoint on ("" where that would be test), to test on.
        words, frames: the most of a text and of a video.
        epochs: X-CLIP's; CLIP4Clip has 5 everywhere, CLIP2Video's are unknown and 5 here.
        batches: X-CLIP's training and evaluation batch by architecture; CLIP4Clip's are 128 and
            16 everywhere, CLIP2Video's 128 and 64.
        gpus: how many the recipe ran on.
    """
    config = get_config(arg.model)
    config.data.dir = f"shards/{name}"
    config.data.train_split, config.data.val_split, config.data.eval_split = splits
    # Never on test unless asked to: X-CLIP chooses on val, which for some data sets is test.
    config.select_on = "val" if config.data.val_split else "last"
    config.data.max_words, config.data.max_frames = words, frames
    config.model.arch = arg.arch
    config.model.head = arg.head or HEADS[arg.model]
    config.data.frame_policy = "clip4clip_1fps"
    if arg.model == "clip2video":  # it reads folders of 5 frames a second: another build
        config.data.dir += "_5fps"
        config.data.frame_policy, config.data.frame_jitter = "native_5fps", True
    config.reference_gpus = gpus
    config.eval_every_steps = None  # the references evaluate after each epoch
    if arg.model == "xclip":
        config.epochs = epochs
        config.batch_size, config.eval_batch_size = batches.get(arg.arch, batches["vit_b16"])
    else:
        config.batch_size = 128
        config.eval_batch_size = 16 if arg.model == "clip4clip" else 64
    if arg.optimizer:
        tune(config, arg.optimizer)
    if arg.optimizer == "bertadam_fp16":
        _as_on_gpus(config, gpus)
    if arg.smoke:
        shrink(config)
        config.epochs = 0.002
    return config.lock()


def _as_on_gpus(config: ml_collections.ConfigDict, gpus: int) -> None:
    """Sets what the references' number of GPUs changes beside speed (SPEC 6): with float16 on, all
    of the regime in which the published numbers were reached."""
    if config.model.head == "tightTransf":
        config.model.negative_groups = gpus
    elif config.model.name != "clip2video":  # it was released without a trainer
        config.optimizer.encoder_gradient_scale = 1 / gpus


def tune(config: ml_collections.ConfigDict, optimizer: str) -> None:
    """Sets the optimizer for a model that starts from CLIP's weights, and rates that suit it."""
    config.optimizer.name = optimizer
    if optimizer == "adamw":  # X-Pool's rates (arXiv 2203.15086): 1e-6, 1e-5
        config.optimizer.learning_rate = 1e-5
        config.optimizer.clip_multiplier = 0.1
        config.optimizer.freeze_layers = -1


def from_scratch(config: ml_collections.ConfigDict) -> None:
    """Sets what a model without CLIP weights needs: AdamW, one learning rate, nothing frozen."""
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.clip_multiplier = 1.0
    config.optimizer.freeze_layers = -1
    config.optimizer.weight_decay = 0.05


def small(config: ml_collections.ConfigDict, *, image_size: int) -> None:
    """Sets a model of two layers a tower, for training from scratch on a CPU."""
    config.model.arch = "custom"
    config.model.image_size, config.model.patch_size = image_size, 16
    config.model.embed_dim = config.model.vision_width = config.model.text_width = 128
    config.model.vision_layers = config.model.text_layers = config.model.temporal_layers = 2
    config.model.context_length = 77


def shrink(config: ml_collections.ConfigDict) -> None:
    """Makes any run a smoke test: a small model, small batches, a tenth of an epoch."""
    small(config, image_size=64)
    config.batch_size = config.eval_batch_size = 8
    config.epochs = 0.1
