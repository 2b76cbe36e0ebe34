"""A plan as text and as a picture; the numbers come from `plan`."""

from pathlib import Path

GIB = 2**30
NOTE = "An estimate: compiled for chips that are not here; nothing has run on any."
SHOWN = 12  # collectives


def text(facts: dict) -> str:
    """Returns the report of one topology and batch."""
    axes = ", ".join(f"{name}={size}" for name, size in facts["mesh"].items())
    each = facts["padded_size"] / facts["devices"]
    one, parts = "chip", ""
    if facts["devices"] > facts["chips"]:
        one, parts = "device", f" of {facts['devices'] // facts['chips']} devices each"
    lines = [
        f"{facts['topology']}: {facts['chips']} x {facts['chip']}{parts}, mesh {axes}. {NOTE}",
        *facts.get("notes", []),
        *filter(None, [facts["padding"]]),
        f"\ntrain step of {facts['batch_size']:,} pairs, {each:g} a {one};"
        f" all else is of one {one}",
        *_program(facts["step"]),
    ]
    if "hbm_bytes" in facts["step"]:
        lines += [
            f"  operations   {facts['step']['flops'] / 1e12:.4g} TFLOP as the model has them,"
            f" {facts['step']['executed_flops'] / 1e12:.4g} with what is computed again",
            *_collectives(facts["step"]["collectives"]),
        ]
    for name, verb in facts.get("evaluation", {}).items():
        lines += [f"\nevaluation, {name}", *_program(verb)]
        if "hbm_bytes" in verb:
            lines += _collectives(verb["collectives"])
    if "estimate" in facts:
        lines += ["", *_estimate(facts)]
    elif facts["step"]["fits"] is None:
        lines += ["\nNo roofline: the peaks of these devices are in no table."]
    return "\n".join(lines)


def table(rows: list[dict]) -> str:
    """Returns a sweep as a table, one line a topology and batch."""
    lines = [
        NOTE,
        *dict.fromkeys(note for facts in rows for note in facts.get("notes", [])),
        f"{'topology':14} {'batch':>7} {'peak GiB':>9} {'fits':>5} {'step ms':>15} {'MFU %':>9}"
        f" {'videos/s':>17} {'bound':>8} {'hours':>13} {'cost':>13}",
    ]
    for facts in rows:
        head = f"{facts['topology']:14} {facts['batch_size']:7,}"
        if "problem" in facts:
            lines.append(f"{head} {facts['problem']}")
            continue
        memory = facts["step"]["memory"]
        peak = memory.get("peak", memory.get("needed"))
        fits = {True: "yes", False: "no", None: "?"}[facts["step"]["fits"]]
        line = f"{head} {peak / GIB if peak else float('nan'):9.2f} {fits:>5}"
        if estimated := facts.get("estimate"):
            run = facts.get("run", {})
            line += (
                f" {_range(estimated['step_seconds'], 1000, '.1f'):>15}"
                f" {_range(estimated['mfu'], 100, '.0f'):>9}"
                f" {_range(estimated['videos_per_second'], 1, ',.0f'):>17}"
                f" {estimated['bound']:>8}"
                f" {_range(run.get('hours'), 1, ',.2f'):>13}"
                f" {_range(run.get('cost'), 1, ',.2f'):>13}"
            )
        lines.append(line)
    return "\n".join(lines)


def plot(rows: list[dict], path: str | Path) -> None:
    """Draws memory and speed of a sweep over its batch sizes, a line for each topology, as PNG.

    Raises ValueError where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError(
            "the plot needs matplotlib: pip install 'xclip_jax[build]', or leave --plot out."
        ) from None
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    drawn = [facts for facts in rows if "problem" not in facts]
    for name in dict.fromkeys(facts["topology"] for facts in drawn):
        own = sorted(
            (facts for facts in drawn if facts["topology"] == name),
            key=lambda facts: facts["batch_size"],
        )
        peaks = [
            (facts["batch_size"], memory.get("peak", memory.get("needed")))
            for facts in own
            if (memory := facts["step"]["memory"])
        ]
        [points] = left.plot(*zip(*((x, y / GIB) for x, y in peaks), strict=True), "o-", label=name)
        speeds = [
            (facts["batch_size"], facts["estimate"]["videos_per_second"])
            for facts in own
            if "estimate" in facts
        ]
        if speeds:
            x = [batch for batch, _ in speeds]
            low, high = ([ends[end] for _, ends in speeds] for end in ("worst", "best"))
            right.plot(x, high, "o-", color=points.get_color(), label=name)
            right.fill_between(x, low, high, color=points.get_color(), alpha=0.2)
        if room := own[0]["step"].get("hbm_gib"):
            left.axhline(room, color=points.get_color(), linestyle=":")
    left.set(xlabel="global batch", ylabel="GiB a chip at most", title="memory; dotted: there is")
    right.set(xlabel="global batch", ylabel="videos a second", title="roofline estimate, no chip")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_ylim(bottom=0)
        if axes.lines:
            axes.legend()
    figure.savefig(path, format="png")


def _program(facts: dict) -> list[str]:
    memory = facts["memory"]
    if "peak" not in memory:
        needed = " and ".join(f"{name} {size / GIB:.2f} GiB" for name, size in memory.items())
        return [f"  memory       does not fit, says the compiler: {needed or facts['message']}"]
    named = ", ".join(
        f"{name} {memory[name] / GIB:.3f}" for name in ("argument", "output", "temp", "code")
    )
    verdict = {True: "fits", False: "DOES NOT FIT", None: "no HBM known"}[facts["fits"]]
    room = f" of {facts['hbm_gib']:.4g}" if facts.get("hbm_gib") else ""
    lines = [
        f"  memory       {named} (aliased {memory['aliased'] / GIB:.3f}) GiB",
        f"               at most {memory['peak'] / GIB:.3f}{room} GiB: {verdict}",
        f"  traffic      {facts['hbm_bytes'] / 1e9:.2f} GB to and from memory;"
        f" compiled in {facts['compile_seconds']} s",
    ]
    if facts["loops_counted_once"]:
        lines.append(
            f"  note         {len(facts['loops_counted_once'])} loops of unknown length count once"
        )
    return lines


def _collectives(found: list[dict]) -> list[str]:
    if not found:
        return ["  collectives  none"]
    sent: dict[str, float] = {}
    for one in found:
        name = f"{one['kind']} over {one['axes']}"
        sent[name] = sent.get(name, 0) + one["sent"]
    largest = sorted(sent.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {size / 1e6:,.2f}" for name, size in largest)
    lines = [f"  collectives  {len(found)}, {sum(sent.values()) / 1e6:,.2f} MB sent: {shares}"]
    for one in found[:SHOWN]:
        lines.append(
            f"    {one['kind']:18} {one['axes']:10} {one['times']:3} x"
            f" {one['payload'] / 1e6:10.3f} MB, {one['sent'] / 1e6:10.2f} MB sent"
            f"  {_origin(one['op_name'])}"
        )
    if rest := found[SHOWN:]:
        small = sum(one["sent"] for one in rest)
        lines.append(f"    and {len(rest)} smaller ones, {small / 1e6:.2f} MB sent")
    return lines


def _origin(op_name: str) -> str:
    """Returns the end of a JAX operation's name, without what every name has."""
    name = op_name.partition(":")[0]
    parts = [part for part in name.split("/") if part not in ("body", "closed_call", "while")]
    return "/".join(parts[-3:])[-60:]


def _estimate(facts: dict) -> list[str]:
    estimated, run = facts["estimate"], facts.get("run")
    names = {"hbm": "HBM", "ici": "NVLink" if "notes" in facts else "ICI", "dcn": "DCN"}
    spent = ", ".join(
        f"{names.get(name, name)} {time_taken * 1000:.1f} ms"
        for name, time_taken in estimated["seconds"].items()
    )
    lines = [
        f"roofline, {facts['arithmetic']} at the published peaks: from all at once to one after"
        " another",
        f"  a step       {_range(estimated['step_seconds'], 1000, '.1f')} ms ({spent};"
        f" bound by {estimated['bound']})",
        f"  speed        {_range(estimated['videos_per_second'], 1, ',.0f')} videos/s,"
        f" MFU {_range(estimated['mfu'], 100, '.1f')} %",
    ]
    if not run:
        return [*lines, "  a run        give --pairs N, or shards in config.data.dir"]
    lines.append(
        f"  a run        {run['pairs']:,} pairs, {run['steps']:,} steps; an epoch"
        f" {_range(run['epoch_seconds'], 1 / 60, ',.2f')} minutes, all"
        f" {_range(run['hours'], 1, ',.3f')} hours, evaluation and start not counted"
    )
    if "cost" in run:
        lines.append(
            f"  cost         {_range(run['cost'], 1, ',.2f')} at {run['price']:g} a chip and hour"
        )
    return lines


def _range(ends: dict | None, factor: float, style: str) -> str:
    """Returns "12.0-13.5", the better end first, or one number where both look the same."""
    if not ends:
        return ""
    both = [format(ends[end] * factor, style) for end in ("best", "worst")]
    return both[0] if both[0] == both[1] else "-".join(both)
