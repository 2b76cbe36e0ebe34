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
    from PIL import Image

    from xclip_jax import clip_features, evaluate, sampling, workdir
    from xclip_jax.explain import breakdown, grid, page, plot

    if out.suffix.lower() == ".png":
        plot.require()  # says at once if it is missing
    trained = workdir.load(arguments.workdir, arguments.checkpoint)
    encoders = evaluate.make_encoders(trained.graphdef)
    clip = sampling.from_file(
        Path(arguments.video), trained.intake, trained.frame_policy, most=None
    )
    [encoded] = clip_features.encode(trained, encoders, [clip])
    ids, token_mask = trained.tokenizer([arguments.text], trained.intake.max_words)
    [texts] = evaluate.token_batches(encoders, trained.params, ids, token_mask, batch_size=1)
    text = jax.tree.map(lambda x: x[0], texts)
    found = breakdown.explain(trained.graphdef, trained.params, text, encoded.features)
    pair = grid.Pair(
        arguments.text,
        Path(arguments.video).name,
        trained.tokenizer.decode_words(ids[0][token_mask[0]]),
        [Image.fromarray(frame) for frame in clip.pixels[clip.chosen]],
        encoded.times,
    )
    if out.suffix.lower() == ".png":
        plot.save(found, pair, out)
    else:
        page.write(found, pair, out)
    print(grid.headline(found))
    for name, points, why in grid.bars(found):
        print(f"{points:8.2f}  {name} ({why})")
    if found.absent:
        print(found.absent)
    print(f"drawn in {out}")
