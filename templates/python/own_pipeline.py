"""Labels images in a pipeline of one's own: lines of JSON in, lines of JSON out.

    python own_pipeline.py --images images.jsonl --labels labels.jsonl --failed failed.jsonl

Each line of `images` is an object with a `uri`; what else it has is carried along to the labels.
Further options are those of Beam, such as --runner and its own.
"""

import argparse
import json

import apache_beam as beam
import lemmabeam as lb
from apache_beam.options.pipeline_options import PipelineOptions


def best(image: lb.LabeledImage) -> str:
    """A line about one image, with its labels by score."""
    labels = {label.name: round(float(label.score), 3) for label in image.labels}
    return json.dumps({'uri': image.uri, **image.carried, 'labels': labels})


def run(images: str, labels: str, failed: str, options: PipelineOptions) -> None:
    """Builds the pipeline and runs it to its end."""
    with beam.Pipeline(options=options) as pipeline:
        found = (
            pipeline
            | beam.io.ReadFromText(images)
            | beam.Map(json.loads)
            | lb.LabelImages('embedded', top_k=3)
        )
        _ = found.labels | beam.Map(best) | 'Labels' >> beam.io.WriteToText(labels, num_shards=1)
        _ = (
            found.dead_letters
            | 'AsJson' >> beam.Map(lambda letter: json.dumps(letter._asdict()))
            | 'Failed' >> beam.io.WriteToText(failed, num_shards=1)
        )


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    for name in ('images', 'labels', 'failed'):
        parser.add_argument(f'--{name}', required=True)
    args, rest = parser.parse_known_args()
    run(args.images, args.labels, args.failed, PipelineOptions(rest))
