"""That the benchmarks still run; what they find on a busy machine is not looked at."""

from tests.benchmarks.__main__ import main


def test_decoding_benchmark_prints_its_figures(capsys):
    assert main(['decoding', '--quick']) == 0

    printed = capsys.readouterr().out
    assert 'ours / plain' in printed
    assert 'PSNR, where reduced: median' in printed
