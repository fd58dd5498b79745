"""The ModelHandler through which Beam's RunInference calls the model.

Beam's own TensorFlow handlers cannot load what Keras 3 makes, attach the input image to each
result, pickle every batch for a metric, and leave the device idle between two batches.
"""

import contextlib
import dataclasses
import functools
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.typehints.decorators import no_annotations

import transforms.coders  # noqa: F401 (registers the coders of the elements)
from transforms.core import uris
from transforms.core.elements import (
    Batch,
    Failure,
    Image,
    LabeledBatch,
    LateBatch,
    Stage,
    images_of,
)
from transforms.core.errors import ModelError
from transforms.core.fail_fast import FailFast, FaultPolicy, inference_policy
from transforms.core.garbage import GARBAGE
from transforms.core.reasons import Reason
from transforms.core.resources import LIVE, shared
from transforms.core.versions import library_versions
from transforms.model.device import Device, Devices
from transforms.model.predictor import InferenceOptions, MakeModel, Model, Prediction, Predictor
from transforms.model.receipt import Receipt, as_statistic
from transforms.model.rescue import predict_or_rescue
from transforms.model.witness import Witness
from transforms.output.layout import Layout
from transforms.output.results import NOT_COMPUTED
from transforms.resume import FinishChunksDoFn

_NO_PIXELS = np.zeros((0, 0, 0, 3), np.uint8)
_NOTHING = np.zeros((0, 0), np.float32)
_WAITS = ('fetch_wait', 'decode_wait')


class LazyPredictor:
    """The model of this process, loaded when the first image needs it, or a little earlier.

    Each device has one of its own.  A run without anything to label does not even import
    TensorFlow.

    Args:
      options: the model, and how it is called.
      devices: run its calls; by default those of this process.
      make: makes it, by default `Predictor`.

    Attributes:
      devices: run its calls.
      witness: what compares the first ones with float32, in a call of a device.
    """

    def __init__(
        self,
        options: InferenceOptions,
        devices: Devices | None = None,
        make: MakeModel | None = None,
    ):
        self._options = options
        self._make = make or Predictor
        self.devices = devices or shared(_devices, (options.model.id, options.accelerators))
        self.witness = Witness(options, self._make)
        self._soon: Future[None] | None = None
        self._failed: Exception | None = None
        self._loading = threading.Lock()
        self._models: dict[int, Model] = {}

    def get(self, device: Device | None = None) -> Model:
        """Loads and checks the model of a device, by default the first, once per process.

        Raises:
          ModelError: it cannot be loaded; also if `load_soon` found that.  The next call tries
            again.
        """
        number = 0 if device is None else device.number
        if number not in self._models:
            # One after the other: what builds a network need not know of threads.
            with self._loading, GARBAGE.uncollected():
                failed, self._failed = self._failed, None
                if failed is not None:
                    raise failed
                options = self._options._replace(accelerator=number)
                self._models[number] = shared(self._make, options)
            LIVE.has_model = True
        return self._models[number]

    def load_soon(self) -> None:
        """Has a device load its model, without waiting for it."""
        is_loading = self._soon is not None and not self._soon.done()
        if not self._models and not is_loading:
            self._failed = None  # of a run that had nothing to ask for
            # If other work waits for a device, that will load it.
            self._soon = self.devices.submit_if_free(self._try_to_load)

    def _try_to_load(self, device: Device) -> None:
        try:
            self.get(device)
        except Exception as e:  # noqa: BLE001 (raised by the next call)
            self._failed = e


def _devices(key: tuple[str, int]) -> Devices:
    return Devices(*key)


def _lazy(key: tuple[MakeModel, InferenceOptions]) -> LazyPredictor:
    make, options = key
    return LazyPredictor(options, make=make)


def lazy_predictor(options: InferenceOptions, make: MakeModel | None = None) -> LazyPredictor:
    """The one of this process, see `LazyPredictor`."""
    return shared(_lazy, (make or Predictor, options))


def load_soon(options: InferenceOptions, make: MakeModel | None = None) -> None:
    """Starts to load the model in this process, without waiting for it.

    Call it as soon as there is something to label: the model loads while the first batch is fetched
      and decoded.  Errors are raised when that batch asks for the model.

    Args:
      options, make: as in `transforms.label.LabelImages`.
    """
    lazy_predictor(options, make).load_soon()


class _Computed(NamedTuple):
    """The result of the device for a batch.

    Attributes:
      found: what the model says.
      guilty: as returned by `predict_or_rescue`.
      facts: how it was computed; None if it was not.
      infer_sec: how long that took.
      idle_sec: how long the device was idle before.
      receipt: of the precision; None where none was made.
      receipt_sec: how long that took.
    """

    found: Prediction
    guilty: dict[int, str]
    facts: dict[str, Any] | None
    infer_sec: float
    idle_sec: float
    receipt: Receipt | None = None
    receipt_sec: float = 0.0


_NOT_CALLED = _Computed(
    Prediction(_NOTHING.astype(np.int32), _NOTHING, np.zeros(0, np.int32), None), {}, None, 0.0, 0.0
)
"""Of a batch without any image, which is not worth a call."""


def _compute(batch: Batch, slots: Sequence[int], model: LazyPredictor, device: Device) -> _Computed:
    with _named(device, len(model.devices.each)):
        predictor = model.get(device)
        idle_sec = device.idle_sec
        with device.at_work_on(lambda: _describe(batch, slots)):
            started = time.perf_counter()
            found, guilty = predict_or_rescue(predictor, batch.pixels, slots)
            infer_sec = time.perf_counter() - started
    facts = predictor.computed
    receipt, started = None, time.perf_counter()
    if device.number == 0:  # the others compute as it does
        healthy = [slot for slot in slots if slot not in guilty]
        # Loading a second model takes long: that is no call that hangs.
        receipt = model.witness.look(batch.pixels, found, healthy, facts['precision'])
    receipt_sec = time.perf_counter() - started if receipt else 0.0
    return _Computed(found, guilty, facts, infer_sec, idle_sec, receipt, receipt_sec)


@contextlib.contextmanager
def _named(device: Device, count: int) -> Iterator[None]:
    """Says of an error which of several devices it is about."""
    try:
        yield
    except ModelError as e:
        if count == 1:
            raise
        raise ModelError(f'accelerator {device.number + 1} of {count}: {e}') from e


def _slots(batch: Batch) -> list[int]:
    """Which slots hold images."""
    return [slot for slot, each in enumerate(batch.outcomes) if isinstance(each, Image)]


def lost(found: Prediction, guilty: Mapping[int, str], slots: int) -> dict[int, tuple[Reason, str]]:
    """The slots of images for which the model has no labels, and why: reason and detail.

    Args:
      found, guilty: what `predict_or_rescue` gives.
      slots: so many, the first ones, may hold an image.
    """
    # Mostly there are none, and then no image is looked at.
    infinite = np.flatnonzero(found.counts[:slots] < 0)
    not_finite = Reason.NONFINITE_SCORES, 'the model gave NaN or infinite outputs'
    return {
        slot: (Reason.MODEL_ERROR, f'the model failed on it: {guilty[slot]}')
        if slot in guilty
        else not_finite
        for slot in sorted({*guilty, *infinite.tolist()})
    }


def _labeled(batch: Batch, computed: _Computed) -> LabeledBatch:
    """Assembles the results of a batch; does not look at its pixels."""
    found = computed.found
    outcomes = list(batch.outcomes)
    for slot, (reason, detail) in lost(found, computed.guilty, len(outcomes)).items():
        image = outcomes[slot]
        if isinstance(image, Image):
            outcomes[slot] = Failure(
                Stage.INFER, reason, detail, image.size_bytes, image.object_version
            )
    how = NOT_COMPUTED
    if computed.facts is not None:
        versions = library_versions(computed.facts['backend'])
        how = json.dumps({**computed.facts, 'versions': versions}, sort_keys=True)
    timings = {
        **_waits_of_the_device(batch.timings, computed.idle_sec),
        'infer': computed.infer_sec,
    }
    stats: tuple[tuple[str, float], ...] = ()
    if computed.receipt:
        timings['receipt'] = computed.receipt_sec
        stats = (as_statistic(computed.receipt),)
    return LabeledBatch(batch.chunk, batch.start, outcomes, *found, timings, how, stats)


def _waits_of_the_device(timings: Mapping[str, float], idle_sec: float) -> dict[str, float]:
    """Timings of a batch, with only those waits in which the device had to wait, too.

    Waiting for the loader while the device is still at work delays nothing.
    """
    waited_sec = sum(timings.get(name, 0.0) for name in _WAITS)
    share = min(1.0, idle_sec / waited_sec) if waited_sec else 1.0
    return {
        name: share * seconds if name in _WAITS else seconds for name, seconds in timings.items()
    }


def label_batch(batch: Batch, model: LazyPredictor) -> LabeledBatch:
    """Calls the model on a batch and waits for it; skips a batch without any image.

    Raises:
      ModelError: the model fails, and no image is to blame.
    """
    slots = _slots(batch)
    if not slots:
        return _labeled(batch, _NOT_CALLED)
    return _labeled(batch, _compute(batch, slots, model, model.devices.each[0]))


def _hand_in(batch: Batch, model: LazyPredictor, policy: FaultPolicy) -> LateBatch:
    """Submits a batch to the device; waits while another one is waiting."""
    slots = _slots(batch)
    if slots:
        future = model.devices.submit(functools.partial(_compute, batch, slots, model))
    else:
        future = Future()
        future.set_result(_NOT_CALLED)
    # The pixels go when the device is done with them.
    rest = dataclasses.replace(batch, pixels=_NO_PIXELS)

    def finish(computed: _Computed) -> LabeledBatch:
        labeled = _labeled(rest, computed)
        _take_note(labeled, policy)
        return labeled

    return LateBatch(future, finish)


def _take_note(batch: LabeledBatch, policy: FaultPolicy) -> None:
    """Counts how images ended.

    Raises:
      ModelError: the model fails on nearly all of them.
    """
    labeled = failed = 0
    try:
        for item, outcome in zip(batch.items, batch.outcomes, strict=True):
            if isinstance(outcome, Image):
                labeled += images_of(item)
                policy.record(item.uri, None)
            elif isinstance(outcome, Failure) and outcome.stage is Stage.INFER:
                failed += images_of(item)
                policy.record(item.uri, outcome, item.failed)
    finally:
        LIVE.add(labeled=labeled, failed=failed)


def _describe(batch: Batch, slots: Sequence[int]) -> str:
    """A batch, for people."""
    first, last = (
        uris.printable(batch.chunk.items[batch.start + slot].uri) for slot in (slots[0], slots[-1])
    )
    return f'{len(slots)} images of the chunk {batch.chunk.id}, from {first} to {last}'


class ImageModelHandler(ModelHandler[Batch, LateBatch, LazyPredictor]):
    """Takes whole batches as single elements: they were cut when chunks were loaded.

    For each it returns a `LateBatch`, so that the next one is submitted while the device computes.
    Beam's metrics of RunInference therefore measure the submission, not the device.

    Args:
      options: the model, and how it is called.
      fail_fast: when a failing model stops the run.
      make: makes the model, by default `Predictor`.
    """

    def __init__(
        self, options: InferenceOptions, fail_fast: FailFast, make: MakeModel | None = None
    ):
        super().__init__()
        self._options = options
        self._fail_fast = fail_fast
        self._make = make

    def load_model(self) -> LazyPredictor:
        """The model of this process, not loaded yet."""
        return lazy_predictor(self._options, self._make)

    def run_inference(
        self,
        batch: Sequence[Batch],
        model: LazyPredictor,
        inference_args: dict[str, Any] | None = None,  # noqa: ARG002 (Beam's signature)
    ) -> list[LateBatch]:
        """Submits each batch to the device."""
        policy = inference_policy(self._fail_fast)
        return [_hand_in(each, model, policy) for each in batch]

    def get_num_bytes(self, batch: Sequence[Batch]) -> int:
        """Bytes of pixels; Beam's default would pickle the batch."""
        return sum(each.pixels.nbytes for each in batch)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """One of our batches per call."""
        return {'min_batch_size': 1, 'max_batch_size': 1}

    def get_metrics_namespace(self) -> str:
        """The namespace of Beam's metrics."""
        return 'lemmabeam'


class LabelImages(beam.PTransform):
    """Runs the model, and finishes and keeps the chunks.

    Args:
      options: the model, and how it is called.
      fail_fast: when a failing model stops the run.
      layout: the output; None keeps nothing.
      make: makes the model, by default `transforms.model.predictor.Predictor`.

    Expands PCollection[Batch] to (PCollection[bytes], one Arrow stream of
    `transforms.output.results.SCHEMA` per chunk, PCollection[tuple[str, float]] of statistics).
    """

    def __init__(
        self,
        options: InferenceOptions,
        fail_fast: FailFast,
        layout: Layout | None,
        make: MakeModel | None = None,
    ):
        super().__init__()
        self._options = options
        self._fail_fast = fail_fast
        self._layout = layout
        self._make = make

    @no_annotations  # Beam takes none for several outputs, and says so each time
    def expand(
        self, batches: beam.PCollection[Batch]
    ) -> tuple[beam.PCollection[bytes], beam.PCollection[tuple[str, float]]]:
        handler = ImageModelHandler(self._options, self._fail_fast, self._make)
        finished = (
            batches
            | 'Infer' >> RunInference(handler).with_output_types(LateBatch)
            | 'FinishChunks'
            >> beam.ParDo(FinishChunksDoFn(self._layout))
            .with_output_types(bytes, stats=tuple[str, float])
            .with_outputs('stats', main='chunks')
        )
        return finished.chunks, finished.stats
