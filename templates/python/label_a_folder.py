"""Labels a folder of photographs, and shows what is in them.

    python label_a_folder.py PHOTOS LABELS

PHOTOS and LABELS are folders, local or in a bucket. Run again, it labels only what is new.
"""

import sys

import lemmabeam as lb

MOST = 10


def main(photos: str, labels: str) -> None:
    """Labels, and prints the commonest labels, some images and what failed."""
    report = lb.label(photos, labels, threshold=0.2, max_failure_rate=1.0, progress=True)
    counts = report.counts
    print(f'{counts.labeled} labelled, {counts.unchanged} unchanged, {counts.dead_lettered} failed')
    for label in report.top_labels[:MOST]:
        print(f'{label.images:6} {label.name}')

    found = lb.open(labels)
    print(f'the first {MOST} images:')
    for row in found.dataset().head(MOST, columns=['uri', 'labels']).to_pylist():
        names = ', '.join(f'{label["name"]} {label["score"]:.2f}' for label in row['labels'])
        print(f'  {row["uri"]}: {names or "no label"}')
    for row in found.dead_letters().to_pylist():
        print(f'  {row["uri"]}: {row["reason"]}: {row["detail"]}')


if __name__ == '__main__':
    main(*sys.argv[1:])
