"""What bounded a run: which of its stages the others had to wait for, and what to change."""

from collections.abc import Mapping

from transforms.runs.report import Verdict

_ADVICE = {
    'fetch': 'raise --loader_threads (or --requests_per_host), or run closer to the images',
    'decode': 'give each worker more cores, or store smaller images',
    'inference': 'use a GPU (with --jit), a smaller --model_size or a smaller model',
    'write': 'run closer to --output, raise --rows_per_file, or leave out --features',
}
_PARTS = {
    'fetch': 'fetch_wait_sec',
    'decode': 'decode_wait_sec',
    'inference': 'infer_sec',
    'write': 'write_sec',
}


def make_verdict(stats: Mapping[str, float], wall_sec: float) -> Verdict:
    """Finds the stage that took the most time of those that hold a run up.

    Loading runs ahead of the model, so that only what the model waited for counts, and not what
    the threads of the loader did meanwhile.

    Args:
      stats: sums of seconds over all workers: 'fetch_wait_sec' and 'decode_wait_sec', when the
        model waited; 'infer_sec'; 'write_sec'.
      wall_sec: of the whole run.

    Returns:
      The verdict; what its `share_of_wall` lacks to 1 are the start, the listing and the model's
      loading.
    """
    seconds = {stage: stats.get(key, 0.0) for stage, key in _PARTS.items()}
    total_sec = sum(seconds.values())
    bounded_by = max(seconds, key=seconds.__getitem__) if total_sec else None
    return Verdict(
        bounded_by=bounded_by,
        share={
            stage: round(sec / total_sec, 4) if total_sec else 0.0 for stage, sec in seconds.items()
        },
        share_of_wall=round(total_sec / wall_sec, 4) if wall_sec > 0 else None,
        advice=bounded_by and _ADVICE[bounded_by],
    )


def describe(verdict: Verdict | None) -> str:
    """The verdict as a line for people; '' where there is none."""
    if verdict is None or verdict.bounded_by is None:
        return ''
    shares = ', '.join(
        f'{stage} {share:.0%}'
        for stage, share in sorted(verdict.share.items(), key=lambda pair: -pair[1])
    )
    if (verdict.share_of_wall or 1.0) < 0.5:
        return f'Most of the time was spent on startup and listing; of the rest: {shares}'
    return f'Bottleneck: {verdict.bounded_by} ({shares}). To speed it up, {verdict.advice}'
