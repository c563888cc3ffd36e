"""Where it says what recipes cost: metafile.yml, and a table in README.md between two markers."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
END = '<!-- end of recipes -->'
HEAD = [
    '| config | schedule | input | parameters | FLOPs | state |',
    '| --- | --- | --- | --- | --- | --- |',
]


def begin(target: str) -> str:
    """The marker above a table that a target of the Makefile writes."""
    return f'<!-- recipes: written by `make {target}` -->'


def with_table(text: str, target: str, rows: list[str]) -> str:
    """The text of a README with the table of these rows.

    Raises:
        ValueError: The markers are not there, or not once each.
    """
    if text.count(begin(target)) != 1 or text.count(END) != 1:
        raise ValueError(
            'The README needs, once each and each on a line of its own, the markers between which '
            f'its table is written:\n{begin(target)}\n{END}'
        )
    before, _, rest = text.partition(begin(target))
    _, _, after = rest.partition(END)
    return '\n'.join([before + begin(target), *HEAD, *rows, END + after])


def row(title: str, metadata: dict, state: str, plain: dict | None = None) -> str:
    """A row of the table.

    Args:
        title: Of the config.
        metadata: What its entry in metafile.yml says: Epochs or Iterations, Parameters, FLOPs and
            Input Size.
        state: Whether it has been trained.
        plain: The same of the config it is compared with; None: there is none.
    """
    unit = 'Epochs' if 'Epochs' in metadata else 'Iterations'
    plain = plain or {}
    cells = [
        title,
        f'{metadata[unit]} {unit.lower()}',
        metadata['Input Size'],
        f'{metadata["Parameters"] / 1e6:.2f} M' + _more(metadata, plain, 'Parameters'),
        f'{metadata["FLOPs"] / 1e9:.2f} G' + _more(metadata, plain, 'FLOPs'),
        state,
    ]
    return f'| {" | ".join(cells)} |'


def _more(metadata: dict, plain: dict, key: str) -> str:
    return f' ({100 * (metadata[key] / plain[key] - 1):+.1f} %)' if plain else ''


def metafile_text(index: dict) -> str:
    return yaml.dump(index, Dumper=_IndentedDumper, sort_keys=False, width=100)


class _IndentedDumper(yaml.SafeDumper):
    """Indents the items of a list, as OpenMMLab's metafiles do."""

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)
