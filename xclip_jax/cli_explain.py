"""The command `xclip-jax explain`: why a text and a video have their score."""

from pathlib import Path


def add(command, checkpoint: str) -> None:
    """Adds the command to the parser by way of cli's `command`; `checkpoint` is that option's
    help."""
    explain = command(
        "explain",
        _explain,
        "show why a video has its score for a text: parts, words x frames, attention",
        'xclip-jax explain clip.mp4 "a dog runs" --workdir runs/mine --out why.html',
    )
    explain.add_argument("video", metavar="VIDEO", help="file of the video")
    explain.add_argument("text", metavar="TEXT", help="what it was asked for")
    explain.add_argument("--workdir", required=True, help="folder of the run")
    explain.add_argument("--out", required=True, help="the picture: FILE.png or FILE.html")
    explain.add_argument("--checkpoint", default="selected", help=checkpoint)


def _explain(arguments) -> None:
    out = Path(arguments.out)
    problems = []
    if out.suffix.lower() not in (".png", ".html"):
        problems.append(f"--out {out}: expected a name that ends in .png or .html")
    elif not out.parent.is_dir():
        problems.append(f"--out {out}: {out.parent} is no folder; make it first")
    if not arguments.text.strip():
        problems.append("TEXT is empty: give the sentence to explain")
    if not Path(arguments.video).is_file():
        problems.append(f"VIDEO {arguments.video}: no such file")
    if problems:
        raise ValueError("; ".join(problems) + ".")

    import jax
    import numpy as np
    from PIL import Image

    from xclip_jax import evaluate, explain, explain_grid, explain_page, explain_plot, workdir

    if out.suffix.lower() == ".png":
        explain_plot.pyplot()  # says at once if it is missing
    trained = workdir.load(arguments.workdir, arguments.checkpoint)
    pixels, mask, times = _frames(trained, Path(arguments.video))
    encoders = evaluate.make_encoders(trained.graphdef)
    batch = [(pixels[None], mask[None])]
    videos = evaluate.encode_videos(encoders, trained.params, batch, batch_size=1)
    ids, token_mask = trained.tokenizer([arguments.text], trained.intake.max_words)
    [texts] = evaluate.token_batches(encoders, trained.params, ids, token_mask, batch_size=1)
    text, video = (jax.tree.map(lambda x: x[0], features) for features in (texts, videos))
    found = explain.explain(trained.graphdef, trained.params, text, video)
    pair = explain_grid.Pair(
        arguments.text,
        Path(arguments.video).name,
        trained.tokenizer.decode_words(ids[0][token_mask[0]]),
        [Image.fromarray(frame) for frame in pixels[np.flatnonzero(mask)]],
        times,
    )
    if out.suffix.lower() == ".png":
        explain_plot.save(found, pair, out)
    else:
        explain_page.write(found, pair, out)
    print(explain_grid.headline(found))
    for name, points, why in explain_grid.bars(found):
        print(f"{points:8.2f}  {name} ({why})")
    if found.absent:
        print(found.absent)
    print(f"drawn in {out}")


def _frames(trained, path: Path):
    """Returns the pixels [F, H, W, 3], mask [F] and seconds of the frames that a model is given of
    a file, the same as in a search."""
    import numpy as np

    from xclip_jax import frame_policy, frames, video

    intake, stored = trained.intake, trained.frame_policy
    images, times = video.read(path, policy=stored["name"], short_side=stored["short_side"])
    chosen = frame_policy.choose(
        len(images),
        intake.evaluation,
        stored=stored["name"],
        most=intake.max_frames,
        rng=np.random.default_rng(intake.frame_seed),
    )
    pixels = np.zeros((intake.max_frames, intake.image_size, intake.image_size, 3), np.uint8)
    for i, j in enumerate(chosen):
        pixels[i] = frames.to_square(images[j], intake.image_size)
    return pixels, np.arange(intake.max_frames) < len(chosen), times[chosen]
