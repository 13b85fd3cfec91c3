"""Commands around one configuration: the best of a sweep as a file, trained again, looked at before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sweeps.cli.command import DONE, FAILED, Command
from sweeps.cli.options import CONFIG_DIRS, JSON, OVERRIDES, ROOT, SWEEP
from sweeps.config import names
from sweeps.config.errors import ConfigError

if TYPE_CHECKING:
    from sweeps.cli.command import Answer, Lines


@click.command(cls=Command)
@SWEEP
@ROOT
@JSON
@CONFIG_DIRS
@click.option("--save", metavar="NAME", help="Save as best/NAME.yaml in --config-dir, else in ./conf.")
@click.option("--trial", "number", type=int, help="Take this trial instead of the best.")
@click.option("--force", is_flag=True, help="Replace a file of that name.")
def best(
    sweep_name: str,
    root: Path,
    as_json: bool,
    config_dirs: tuple[Path, ...],
    save: str | None,
    number: int | None,
    force: bool,
) -> Lines:
    """Export the best trial of a sweep as a file that runs again.

    Of several objectives the first, search.metric, decides; --trial takes another of the Pareto front.
    """
    from sweeps.cli.looking import as_text
    from sweeps.config.compose import user_folder
    from sweeps.records import best as files
    from sweeps.records import disk
    from sweeps.views import exported

    study = disk.open_study(root, sweep_name)
    row = files.pick(study, number)
    folder = user_folder(config_dirs)
    if save:
        path = folder / "best" / f"{names.file_name('--save', save)}.yaml"
        if path.exists() and not force:
            raise ConfigError(f"{path} is there already. Choose another name, or replace it: --force.")
    else:  # the sweep's own file is that of its best trial
        path = root / sweep_name / ("best.yaml" if number is None else f"best-{number}.yaml")
    files.export(study, row, path)
    if as_json:
        yield as_text({"path": str(path), **files.document(study, row)})
        return
    rerun = f"sweeps train best={save or path}"
    if save and folder != Path("conf"):
        rerun += f" --config-dir {folder}"
    yield from exported.lines(study, row, path, rerun, is_chosen=number is not None)


@click.command(cls=Command)
@OVERRIDES
@CONFIG_DIRS
def train(overrides: tuple[str, ...], config_dirs: tuple[Path, ...]) -> Lines:
    r"""Train one configuration here, without a sweep.

    OVERRIDES as in launch; best=NAME or best=PATH trains an exported trial and compares the result:

    \b
        sweeps train best=fashion-small
        sweeps train best=runs/grow-prune-7f3a/best.yaml training.num_epochs=30
    """
    import secrets

    from sweeps.config.compose import load
    from sweeps.records import best as files
    from sweeps.trial import alone
    from sweeps.views import retrained

    config = load(overrides, config_dirs)
    folder = Path(config.storage.root) / f"train-{secrets.token_hex(2)}" / "checkpoints"
    device = "cuda" if config.cluster.gpus_per_trial else "cpu"
    metrics: dict[str, float] = {}
    for report in alone.train(config.trial, device, folder):
        metrics = report.metrics
        yield retrained.line(report.epoch, metrics)
    yield from retrained.lines(files.compare(metrics, config.recorded), config.recorded)
    yield f"checkpoint: {folder}"


@click.command(cls=Command)
@OVERRIDES
@CONFIG_DIRS
def preflight(overrides: tuple[str, ...], config_dirs: tuple[Path, ...]) -> Answer:
    r"""Check that an untrained network carries a signal.

    OVERRIDES as in train. Scales are root mean squares of a layer's values before its nonlinearity, and of
    the gradient there beside the last layer's. Ends with 3 where training would be hopeless:

    \b
        sweeps preflight model=mlp model.widths=[32,32,32,32] model.init_gain=0.1
    """
    from sweeps.config.compose import load
    from sweeps.views import preflight as view

    found = view.check(load(overrides, config_dirs).trial)
    yield view.render(found)
    return FAILED if found.failures else DONE
