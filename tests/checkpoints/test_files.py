"""Checkpoint files: what is read, what is refused, and that no file is lost."""

import os
import stat

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmdk.checkpoints import check_target, read_checkpoint, write_checkpoint

STATE = {'conv.weight': torch.ones(2, 3)}


@pytest.fixture
def source(tmp_path):
    torch.save(STATE, tmp_path / 'source.pth')
    return tmp_path / 'source.pth'


@pytest.mark.parametrize('zipped', [True, False])
def test_a_bare_state_dict(zipped, tmp_path):
    torch.save(STATE, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(tmp_path / 'a.pth')
    assert list(checkpoint) == ['state_dict']
    assert torch.equal(checkpoint['state_dict']['conv.weight'], STATE['conv.weight'])


def test_a_checkpoint_of_mmengine(tmp_path):
    hub = dict(log_scalars={'train/loss': HistoryBuffer([1.0, 2.0], [1, 1])})
    torch.save(dict(state_dict=STATE, meta=dict(epoch=3), message_hub=hub), tmp_path / 'a.pth')
    checkpoint = read_checkpoint(tmp_path / 'a.pth')
    assert checkpoint['meta'] == dict(epoch=3)
    assert checkpoint['message_hub']['log_scalars']['train/loss'].mean() == 1.5


class Runs:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return print, ('it ran',)


@pytest.mark.parametrize(
    'content, message',
    [
        ([1, 2], 'it holds a list'),
        ({}, 'it holds an empty dict'),
        (dict(state_dict={}), "it holds a dict of 'state_dict'"),
        (dict(model=STATE), "a dict of 'model', of which 'model' are no named tensors.*save that"),
        (dict(state_dict=dict(weight=[1.0])), "'weight' are no named tensors"),
        (torch.ones(2), 'it holds a Tensor'),
        ({1: torch.ones(2)}, 'of which 1 are no named tensors'),
    ],
)
def test_what_is_no_checkpoint(content, message, tmp_path):
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=f'a.pth is no checkpoint .*{message}'):
        read_checkpoint(tmp_path / 'a.pth')


def test_objects_that_could_run_code(tmp_path, capsys):
    torch.save(dict(state_dict=STATE, meta=Runs()), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='weights-only loading refuses .*print') as error:
        read_checkpoint(tmp_path / 'a.pth')
    assert 'it ran' not in capsys.readouterr().out
    assert 'weights_only=False' not in str(error.value)


@pytest.mark.parametrize('share', [0.1, 0.5, 0.99])
def test_a_truncated_file(share, source):
    source.write_bytes(source.read_bytes()[: int(share * source.stat().st_size)])
    with pytest.raises(ValueError, match='source.pth is damaged: its end is missing'):
        read_checkpoint(source)


@pytest.mark.parametrize('content', [b'', b'PK', b'version https://git-lfs', os.urandom(500)])
def test_other_files(content, tmp_path):
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(ValueError, match='a.pth is no checkpoint, or'):
        read_checkpoint(tmp_path / 'a.pth')


def test_a_truncated_file_of_the_old_format(tmp_path):
    torch.save(STATE, tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    content = (tmp_path / 'a.pth').read_bytes()
    for size in range(0, len(content), 7):
        (tmp_path / 'a.pth').write_bytes(content[:size])
        with pytest.raises(ValueError, match='a.pth is no checkpoint, or'):
            read_checkpoint(tmp_path / 'a.pth')


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='There is no file .*absent.pth'):
        read_checkpoint(tmp_path / 'absent.pth')
    with pytest.raises(FileNotFoundError, match='no file https://x.org/a.pth. Fetch it first'):
        read_checkpoint('https://x.org/a.pth')
    with pytest.raises(ValueError, match='is not a file'):
        read_checkpoint(tmp_path)


def write(target, source, overwrite=False, content=STATE):
    write_checkpoint(dict(state_dict=content), target, source, overwrite)


def test_written_and_read(source, tmp_path):
    write(tmp_path / 'target.pth', source)
    assert torch.equal(
        read_checkpoint(tmp_path / 'target.pth')['state_dict']['conv.weight'], STATE['conv.weight']
    )
    # Readable by whom any new file is, and nothing else is left behind.
    (tmp_path / 'any').touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['any', 'source.pth', 'target.pth']


def same(tmp_path, source):
    return source


def other_path(tmp_path, source):
    (tmp_path / 'sub').mkdir()
    return tmp_path / 'sub' / '..' / source.name


def symlink(tmp_path, source):
    (tmp_path / 'link.pth').symlink_to(source.name)
    return tmp_path / 'link.pth'


def hard_link(tmp_path, source):
    (tmp_path / 'link.pth').hardlink_to(source)
    return tmp_path / 'link.pth'


@pytest.mark.parametrize('overwrite', [False, True])
@pytest.mark.parametrize('name', [same, other_path, symlink, hard_link])
def test_the_source_is_never_overwritten(name, overwrite, source, tmp_path):
    before = source.read_bytes()
    target = name(tmp_path, source)
    with pytest.raises(ValueError, match='is what is read, .* never overwritten'):
        write(target, source, overwrite)
    assert source.read_bytes() == target.read_bytes() == before


def test_a_source_that_is_a_link(source, tmp_path):
    """Not even where the link is read and the file behind it would be written."""
    link = symlink(tmp_path, source)
    with pytest.raises(ValueError, match='is what is read'):
        write(source, link, overwrite=True)
    assert link.is_symlink()


def test_an_existing_target(source, tmp_path):
    target = tmp_path / 'target.pth'
    target.write_text('precious')
    with pytest.raises(FileExistsError, match='target.pth exists; name another file'):
        write(target, source)
    assert target.read_text() == 'precious'
    write(target, source, overwrite=True)
    assert list(read_checkpoint(target)['state_dict']) == ['conv.weight']


def test_a_target_that_is_a_link_stays_one(source, tmp_path):
    (tmp_path / 'store').mkdir()
    (tmp_path / 'target.pth').symlink_to('store/target.pth')
    write(tmp_path / 'target.pth', source)
    assert (tmp_path / 'target.pth').is_symlink()
    assert (tmp_path / 'store/target.pth').is_file()


def test_a_target_that_cannot_be(source, tmp_path):
    with pytest.raises(FileNotFoundError, match='There is no folder .*absent'):
        check_target(tmp_path / 'absent' / 'target.pth', source, False)
    with pytest.raises(ValueError, match='is a folder'):
        check_target(tmp_path, source, True)
    # As /dev/null, which renaming a file to it would end.
    os.mkfifo(tmp_path / 'device')
    with pytest.raises(ValueError, match='device is no ordinary file'):
        check_target(tmp_path / 'device', source, True)


def test_an_interrupted_write_leaves_what_was_there(source, tmp_path, monkeypatch):
    target = tmp_path / 'target.pth'
    target.write_text('precious')

    def fill_disk(checkpoint, file):
        file.write(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', fill_disk)
    with pytest.raises(OSError, match='No space left'):
        write(target, source, overwrite=True)
    assert target.read_text() == 'precious'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['source.pth', 'target.pth']


def test_a_file_that_appears_meanwhile_is_spared(source, tmp_path, monkeypatch):
    target = tmp_path / 'target.pth'
    save = torch.save

    def save_slowly(checkpoint, file):
        save(checkpoint, file)
        target.write_text('precious')

    monkeypatch.setattr(torch, 'save', save_slowly)
    with pytest.raises(FileExistsError):
        write(target, source)
    assert target.read_text() == 'precious'
