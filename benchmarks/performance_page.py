"""Makes docs/performance.md from the numbers in benchmarks/results/.

python benchmarks/performance_page.py --results_dir benchmarks/results --page docs/performance.md
"""

import argparse
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Results = Mapping[str, Any]

HEAD = """# How fast

<!-- Made by benchmarks/performance_page.py from benchmarks/results/; `make bench`, `make gpu-check` and others measure
it. -->

The *plain loop* is our own plain writing of the way widely copied scripts train, `benchmarks/plain_loop.py`: it decodes
its images at every step in the main process, makes noise on the CPU, waits for the device twice a step, averages the
weights one tensor at a time, and makes a preview of 16 images by 50 DDIM steps after every epoch. Numbers are medians.
"""


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results_dir", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    given = parser.parse_args()
    given.page.write_text(make_page(given.results_dir), encoding="utf-8")
    print(f"written: {given.page}")


def make_page(results_dir: Path) -> str:
    """Return the page; a section without a file of results says so."""
    sections = []
    for title, (name, command, write) in SECTIONS.items():
        path = results_dir / name
        body = f"Not measured yet: `{command}` does."
        if path.exists():
            results = json.loads(path.read_text("utf-8"))
            body = "\n\n".join(map(wrapped, [*write(results), origin_line(results)]))
        sections.append(f"## {title}\n\n{body}\n")
    return "\n".join([HEAD, *sections])


def throughput_cpu(results: Results) -> list[str]:
    """Return the rates on the CPU, and what a step is spent on."""
    ways = {
        "the whole command, of {images:,} images": "command_images_per_second",
        "after warm-up, evaluations included, without the preview at the end": "images_per_second",
        "the steps alone": "steps_images_per_second",
        "epochs of 7,400 images, each with a preview": "epoch_images_per_second",
    }
    lines = [
        [
            *(case["what"], way.format(images=case["steps"] * case["train_batch_size"])),
            *(f"{case['plain'][name]:.1f}", f"{case['ours'][name]:.1f}", spread(case["ratio"][name])),
        ]
        for case in results["cases"].values()
        for way, name in ways.items()
        if case["plain"]["preview_seconds"] or name in ("command_images_per_second", "steps_images_per_second")
    ]
    steps = [
        [
            *(case["what"], f"{case['step']['step_seconds'] * 1000:.0f} ms"),
            *(percent(case["step"][name]) for name in ("outside_share", "data_share", "share_of_matmul_peak")),
        ]
        for case in results["cases"].values()
        if "step" in case
    ]
    windows = "; ".join(
        f"{case['what']}: {case['rounds']} runs of {case['plain']['windows']:.0f}" for case in results["cases"].values()
    )
    return [
        "The same UNet, batch size and images in both, whole commands of each in turn, which make their own previews: "
        "the plain loop one of the averaged weights, ours one of each weights (where there is no row of epochs, the "
        "plain loop makes none, and ours one of a single step). These commands are short, so that their start (ours "
        "decodes all images, measures baselines, and evaluates) and the preview at their end weigh far more than in "
        "a run of hours. The rate of the steps is the median over windows of five steps after five of warm-up, without "
        "what ours decodes before the first; the last way to count is computed from it and the time of a preview. "
        "The ratio is the median of those of the rounds, with the least and the most.",
        f"Windows: {windows}.",
        table(["images", "counted over", "plain loop, images/s", "openddpm, images/s", "ratio"], lines),
        "What a step of ours is spent on: time outside convolutions, attention and matrix products is what a loop "
        "can lose; the peak is a product of two square float32 matrices, measured beside.",
        table(["images", "a step", "outside", "waiting for data", "share of the peak"], steps),
    ]


def step_split(results: Results) -> list[str]:
    """Return what the parts of a step take."""
    names = {"native": "all that it has", "avx2": "without AVX-512 and bfloat16"}
    parts = ("forward", "backward", "clip", "optimizer", "ema", "rest", "step")
    rows = [
        [
            *(str(row["threads"]), names[row["instructions"]], row["muon_in"]),
            *(f"{row[part]:.1f}" for part in parts),
            percent(row["optimizer_and_ema_share"]),
        ]
        for row in results["rows"]
    ]
    columns = ("threads", "instructions", "Muon in", *parts, "optimizer and EMA")
    return [
        f"Milliseconds of each part of a step of the recipe {results['recipe']}, medians of {results['rounds']} runs "
        "in turns. The second kind of instructions stands for a processor that lacks the others: PyTorch and its "
        "libraries are told to do without. Muon's library orthogonalizes in bfloat16; openddpm has it do so in float32 "
        "on CPUs.",
        table(columns, rows),
    ]


def time_to_quality(results: Results) -> list[str]:
    """Return how much sooner ours has the loss at which the plain loops end, with its figure."""
    return [*sooner(results), "![held-out loss against seconds](pictures/time-to-quality.png)"]


def sooner(results: Results) -> list[str]:
    """Return how much sooner ours has the loss at which the plain loops end."""
    names = {"copied": "with the bugs of the copied script", "plain": "without them"}
    lines = [
        [
            *(f"plain loop {names[row['against']]}", str(row["seed"]), f"{row['loss']:.4f}"),
            *(f"{row['plain_seconds']:.0f} s", seconds(row["our_seconds"]), times(row["ratio"])),
            times(row["ratio_of_the_better"]),
        ]
        for row in results["seeds"]
    ]
    lines += [
        [
            *(f"**plain loop {names[name]}**", "median", f"{row['loss']:.4f}", f"{row['plain_seconds']:.0f} s"),
            *(seconds(row["our_seconds"]), times(row["ratio"]), times(row["ratio_of_the_better"])),
        ]
        for name, row in results["medians"].items()
    ]
    columns = ["against the", "seed", "held-out loss at its end", "reached in", "by ours in", "sooner", "best weights"]
    total = results["runs"][0]["total_images"]
    return [
        f"The recipe {results['recipe']} against the plain loop with the copied script's learning rate, warm-up "
        f"and average, on the same UNet, the same images and {total:,} of them in total. *Sooner* compares the "
        "loss of the averaged weights; the last column that of the better of averaged and raw weights, on "
        "either side. Seconds count from the first step on; evaluations are not counted, previews are. "
        f"Runs went {results['jobs']} at a time, each on cores of its own.",
        table(columns, lines),
    ]


def sampling(results: Results) -> list[str]:
    """Return the time and the distance of fewer steps."""
    lines = [
        [
            *(f"{row['solver']}, {row['steps']} steps", f"{1000 * row['seconds_per_image']:.1f} ms"),
            *(f"{row['time_ratio']:.2f}", f"{row['kernel_distance']:.5f} ± {row['error']:.5f}"),
            "" if row["difference"] == 0 else "{:+.5f} to {:+.5f}".format(*row["difference_interval"]),
        ]
        for row in results["rows"]
    ]
    real, run = results["real_images"], results["run"]
    solver, steps = results["best_of_20_steps"]
    return [
        f"{results['num_images']} samples of a run on {run['dataset']} at {run['resolution']}x{run['resolution']} "
        f"({run['images']:,} images seen), by each way from the same noises. The kernel distance is the unbiased "
        f"squared maximum mean discrepancy to {results['num_reference']:,} images of the data set, on features of "
        "EfficientNet-Lite0; it is no KID. Its standard error, and the 95 % interval of the difference, are by a "
        "jackknife over blocks of samples, paired where they are compared. As many real images, kept out of the "
        f"reference, score {real['kernel_distance']:.5f} ± {real['error']:.5f}.",
        table(["samples by", "an image", "time", "kernel distance", "difference, 95 % interval"], lines),
        "![samples of both](pictures/sampling.png)",
        f"*Left by {REFERENCE}, right by {solver} in {steps} steps, from the same noises.*",
    ]


def growth(results: Results) -> list[str]:
    """Return rate and memory by the number of images."""
    lines = [
        [
            *(f"{row['num_images']:,}", f"{row['images_per_second']:.0f}", f"{row['rate_ratio']:.3f}"),
            *(f"{row['private_mib']:.0f} MiB", f"{row['memory_ratio']:.3f}"),
            *(seconds(row["first_set_up_seconds"]), seconds(row["set_up_seconds"])),
        ]
        for row in results["rows"]
    ]
    columns = ["training images", "images/s", "of the first", "private memory", "of the first"]
    return [
        "A tiny UNet on random images of 32x32, memory-mapped. Private memory is the most that the steps take, "
        "without pages of the mapped file, which the system takes back when it needs them. The rate is that of the "
        "median step of a run; what a row is of the first is the median over rounds, in which all sizes take turns. "
        "Set-up is everything before the first step but decoding; the baselines are measured once for a set of images.",
        table([*columns, "first set-up", "later ones"], lines),
    ]


def around(results: Results) -> list[str]:
    """Return the numbers of around.py, whatever they are."""
    rows = [[name.replace("_", " "), number(value)] for name, value in flat(results) if name not in ORIGIN_KEYS]
    return [table(["what", "measured"], rows)]


def gpu(results: Results) -> list[str]:
    """Return what a GPU has told: ceilings, ratios, rates, the shares of a run's time, tests, and what is missing."""
    found = [
        "The default UNet at 64x64 on JPEG files of 475x475. The plain loop with one measure after another; ours by "
        "each `--speed`, and with larger batches: windows of some 70 steps of a run planned for 400 epochs of 7,400 "
        "images. Hours are those of so many, with a preview after each, computed from the steps and a preview."
    ]
    if results["dry_run"]:
        found.insert(0, "**A dry run with a tiny UNet: these numbers say only that the check runs.**")
    if peaks := results["ceilings"]:
        found.append(
            f"What this GPU gives: {peaks['matmul_bf16_tflops']:.0f} TFLOP/s of bfloat16 matrix products, "
            f"{peaks['matmul_tf32_tflops']:.0f} in TF32; a copy moves {peaks['copy_tb_per_second']:.2f} TB/s."
        )
    found += [
        f"At batch 16 {name} trains {times(ratio['steps'])} as many images a second as the plain loop, "
        f"{times(ratio['epochs'])} with previews."
        for name, ratio in results["ratios"].items()
    ]
    columns = ["", "batch", "images/s, steps", "with previews", "memory", "of the peak", "hours", ""]
    found.append(table(columns, [gpu_row(name, row) for name, row in results["rows"].items()]))
    found += gpu_costs(results["rows"])
    if run := results["run"]:
        shares = ", ".join(f"{percent(share)} {name}" for name, share in run["shares"].items() if share)
        found.append(
            f"A run of {run['wall_seconds']:.0f} s on {run['dataset']} ({run['images']:,} images seen in batches of "
            f"{run['batch_size']}, {run['status']}): {run['images_per_second']:.0f} images a second in all; of the "
            f"time {shares}. Its verdict: {run['verdict']}"
        )
    if tests := results["tests"]:
        failed = [name for name, test in tests.items() if test["outcome"] == "failed"]
        skipped = sum(test["outcome"] == "skipped" for test in tests.values())
        passed = len(tests) - len(failed) - skipped
        text = f"Tests that need a GPU: {passed} passed, {len(failed)} failed, {skipped} skipped"
        found.append(f"{text}{': ' + ', '.join(failed) if failed else ''}.")
    missing = [f"{name} ({state['status']})" for name, state in results["parts"].items() if state["status"] != "done"]
    if missing:
        found.append(f"Parts that are not whole: {', '.join(missing)}.")
    return [*found, *results.get("notes", [])]


def gpu_row(name: str, row: Results) -> list[str]:
    """Return a line of the table of rates."""
    if "steps_images_per_second" not in row:
        return [name, str(row["batch_size"]), *[""] * 5, row.get("error", "not whole")]
    speed = row.get("speed") or {}
    remarks = [row["error"]] if "error" in row else []
    if speed.get("compile_mode"):
        remarks.append(f"compiled ({speed['compile_mode']}) in {speed['compile_seconds']:.0f} s")
    if breaks := row.get("compiler", {}).get("graph_break"):
        remarks.append(f"{sum(breaks.values())} graph breaks")
    remarks += ["without previews"] if not row.get("preview_seconds") else []
    remarks += [row["note"]] if "note" in row else []
    return [
        *(name, str(row["batch_size"]), f"{row['steps_images_per_second']:.1f}"),
        f"{row['epoch_images_per_second']:.1f}",
        f"{row['device_mib'] / 1024:.1f} GiB" if "device_mib" in row else "",
        percent(row["share_of_matmul_peak"]) if "share_of_matmul_peak" in row else "",
        *(f"{row['hours']:.1f}", "; ".join(remarks)),
    ]


def gpu_costs(rows: Mapping[str, Results]) -> list[str]:
    """Return a table of what stands between the steps of ours, and of the kernels of a step; nothing without any."""
    lines = []
    for name, row in rows.items():
        if "save_stall_seconds" not in row:
            continue
        told = ""
        if profile := row.get("profile"):
            kinds = list(profile["shares"].items())[:4]
            shares = ", ".join(f"{kind} {percent(share)}" for kind, share in kinds)
            told = f"{profile['kernels']} in {profile['milliseconds']:.1f} ms: {shares}"
        lines.append([name, *(seconds_or_nothing(row.get(key)) for key in COSTS), told])
    columns = ["", "until the first step", "a preview", "an evaluation", "a save holds up", "and is whole after"]
    return [table([*columns, "kernels of a step"], lines)] if lines else []


COSTS = ("start_seconds", "preview_seconds", "evaluation_seconds", "save_stall_seconds", "checkpoint_seconds")


def seconds_or_nothing(value: float | None) -> str:
    """Return seconds, or nothing for what was not measured."""
    return "" if value is None else f"{value:.2f} s"


REFERENCE = "ddim in 50 steps"
ORIGIN_KEYS = ("commit", "device", "threads", "cores")

SECTIONS: dict[str, tuple[str, str, Callable[[Results], list[str]]]] = {
    "Images a second, on a CPU": ("throughput-cpu.json", "make bench", throughput_cpu),
    "What a step of the demo takes": ("step-split.json", "python benchmarks/step_split.py", step_split),
    "Seconds until it has learned": ("time-to-quality.json", "make bench-quality", time_to_quality),
    "The same on an AMD EPYC": ("time-to-quality-epyc.json", "make bench-quality", sooner),
    "The same there, told to do without AVX-512 and bfloat16": (
        "time-to-quality-epyc-avx2.json",
        "ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 make bench-quality",
        sooner,
    ),
    "Sampling in fewer steps": ("sampling.json", "make bench", sampling),
    "As the data set grows": ("growth.json", "make bench-growth", growth),
    "Everything around": ("around.json", "make bench", around),
    "On a GPU": ("gpu.json", "make gpu-check", gpu),
}


def wrapped(text: str) -> str:
    """Return prose in lines of at most 120 characters, and anything else as it is."""
    if text.startswith(("|", "!")):
        return text
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def origin_line(results: Results) -> str:
    """Return where numbers come from, in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items())
    place = f"{results.get('device', 'unknown device')}, {results.get('threads')} of {results.get('cores')} cores"
    return f"*{place}; {versions}; commit {results.get('commit', 'unknown')}.*"


def flat(values: Results, prefix: str = "") -> list[tuple[str, Any]]:
    """Return nested numbers as pairs of name and value; lists and versions are left out."""
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            pairs += flat(value, f"{prefix}{name}: ") if name != "versions" else []
        elif not isinstance(value, list):
            pairs.append((prefix + name, value))
    return pairs


def number(value: Any) -> str:
    """Return a number in at most four digits, or anything else as text."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def percent(share: float) -> str:
    """Return a share of 1 as per cent."""
    return f"{100 * share:.1f} %"


def spread(ratio: Mapping[str, float]) -> str:
    """Return the median of ratios, and their range."""
    return f"{times(ratio['median'])} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def seconds(value: float | None) -> str:
    """Return seconds; None stands for what never came."""
    return "never" if value is None else f"{value:.1f} s"


def times(ratio: float | None) -> str:
    """Return a ratio; None stands for what never came."""
    return "–" if ratio is None else f"{ratio:.2f} ×"  # noqa: RUF001


if __name__ == "__main__":
    main()
