import pytest

from mmdk.analysis.scalars import read_records


def write(work_dir, text, start='20260101_000000'):
    path = work_dir / start / 'vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_runs_in_their_order(tmp_path):
    write(tmp_path, '{"step": 3}\n', '20260102_000000')
    write(tmp_path, '{"step": 1}\n{"step": 2}\n')
    assert read_records(tmp_path) == [{'step': 1}, {'step': 2}, {'step': 3}]


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    write(tmp_path, '{"step": 1}\n{"step": 2, "lo')
    assert read_records(tmp_path) == [{'step': 1}]


@pytest.mark.parametrize(
    'line, message', [('{"step": ', 'line 2, is no JSON: '), ('7', 'line 2, is no JSON object')]
)
def test_broken_lines(tmp_path, line, message):
    path = write(tmp_path, f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(ValueError, match=message) as error:
        read_records(tmp_path)
    assert str(path) in str(error.value)


def test_no_records(tmp_path):
    with pytest.raises(FileNotFoundError, match='expected the work_dir of a training'):
        read_records(tmp_path)
