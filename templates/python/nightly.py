"""A nightly job: labels what is new, tries again what failed, and writes one table of all.

    python nightly.py INPUT LABELS TABLE

Ends with 0, or with 3 when more than 2 % of the listed images fail, so that a scheduler tells
somebody; what was labelled is kept, and in the table. Whatever stops it, the next night resumes.
"""

import logging
import sys

import lemmabeam as lb

LOG = logging.getLogger('nightly')


def main(images: str, labels: str, table: str) -> int:
    """Does the work of a night; the exit code."""
    code = 0
    try:
        # An earlier night may still be at work: wait for it, an hour at most.
        report = lb.label(images, labels, max_failure_rate=0.02, wait_for_lease_sec=3600)
    except lb.errors.TooManyFailed as e:
        LOG.error('%s: %s', e, dict(e.report.counts.dead_lettered_by_reason))
        report, code = e.report, 3
    LOG.info('run %s: %s labelled', report.run_id, report.counts.labeled)
    try:
        again = lb.retry(labels, max_failure_rate=1.0)
        LOG.info('tried again: %s', again.counts.labeled if again else 'nothing to try')
    except lb.errors.StoreError as e:
        LOG.warning('a store is still down, the next night tries again: %s', e)
    rows = lb.latest(labels, table, drop_gone=True).rows
    LOG.info('%s: %s rows', table, sum(rows.values()))
    return code


if __name__ == '__main__':
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(levelname)s %(message)s')
    # What matters of it comes as an error or a note of ours.
    logging.getLogger('apache_beam').setLevel(logging.ERROR)
    sys.exit(main(*sys.argv[1:]))
