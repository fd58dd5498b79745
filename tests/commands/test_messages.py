"""What is told, and where it goes."""

from pipeline.messages import SILENT, StandardStreams


def tell(messages):
    messages.say('a result')
    messages.note('a note')
    messages.error('an error')
    messages.trace('a traceback')
    messages.console().print('a table')


def test_a_function_tells_nothing_and_shows_no_progress(capfd):
    tell(SILENT)
    assert SILENT.progress is None
    assert capfd.readouterr() == ('', '')


def test_a_command_has_its_result_alone_on_standard_output(capsys):
    tell(StandardStreams())
    out, err = capsys.readouterr()
    assert out == 'a result\na table\n'
    assert err == 'lemmabeam: a note\nlemmabeam: an error\na traceback\n'
