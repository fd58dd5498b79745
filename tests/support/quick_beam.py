"""Beam's own bookkeeping, remembered: more than half of a small run's time in a test.

While Beam builds and runs a graph, it parses the same options some 700 times, looks through the
signatures of the same functions some 20,000 times, through their code for a mistake in it, and
through the methods of the same DoFns 600 times. The answers are a function of what is asked, so
the tests keep them, as they do the types that a function gives for types that it is given, a parser
of all options, and the file of a class list. Where a type hint was given, which it writes down 900
times, is for debugging; how large a side input is, for which it looks through all modules each
time, is for a cache that nothing here fills. What a step is given is copied by pickling it, which
shows early that it can be; it is pickled with the graph in any case.

What is pickled, some 230 times a run, is packed as tightly as bzip2 can, for a message that here
goes nowhere; what a stage has unpickled it pickles anew, for its steps to unpickle. Each stage is
made by a thread of its own, which nobody lets go of if it hangs; and another one looks every few
milliseconds which step is at work, and is waited for at the stage's end, though nobody asks for
what it saw, nor how many elements came out of each step. All options are read once more, for
warnings of those that Beam does not know, which are refused before. Runs in processes of their own,
all engines and benchmarks among them, do without all of this.
"""

import contextlib
import functools
import threading
import types
import weakref
from collections.abc import Callable
from concurrent import futures
from typing import Any

from apache_beam.internal import cloudpickle_pickler, pickler
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.worker import bundle_processor, operations, statecache, statesampler
from apache_beam.transforms import core, userstate
from apache_beam.typehints import decorators, native_type_compatibility, trivial_inference

from pipeline import beam_options
from transforms.model.vocabulary import Vocabulary

_view_as = PipelineOptions.view_as
_specs = userstate.get_dofn_specs
_views: weakref.WeakKeyDictionary[PipelineOptions, dict[type, PipelineOptions]] = (
    weakref.WeakKeyDictionary()
)
_states: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
_all_options = PipelineOptions.get_all_options
_visible_option_list = PipelineOptions._visible_option_list
_visible: weakref.WeakKeyDictionary[PipelineOptions, list[str]] = weakref.WeakKeyDictionary()
_convert = native_type_compatibility.convert_to_beam_type
_converted: dict[Any, Any] = {}
_infer = trivial_inference.infer_return_type_func
_inferred: dict[Any, Any] = {}


@functools.cache
def install() -> None:
    """Remembers from now on, in this process."""
    PipelineOptions.view_as = _remembered_view_as
    PipelineOptions._visible_option_list = _remembered_list
    PipelineOptions.get_all_options = _unless_for_warnings
    for module in (native_type_compatibility, decorators):
        module.convert_to_beam_type = _remembered_conversion
    core.get_function_args_defaults = _remembered(core.get_function_args_defaults)
    core._check_fn_use_yield_and_return = _remembered(core._check_fn_use_yield_and_return)
    decorators.get_signature = _remembered(decorators.get_signature)
    userstate.get_dofn_specs = _remembered_specs
    decorators.IOTypeHints._make_origin = classmethod(lambda *_, **__: [])
    statecache.get_deep_size = lambda *_: 1
    pickler.roundtrip = lambda given: given
    trivial_inference.infer_return_type_func = _remembered_type
    cloudpickle_pickler.bz2 = types.SimpleNamespace(
        compress=lambda data, **_: data, decompress=lambda data: data
    )
    own_pickler = types.SimpleNamespace(dumps=_Unpickled, loads=_loads)
    bundle_processor.pickler = operations.pickler = own_pickler
    bundle_processor.concurrent = types.SimpleNamespace(
        futures=types.SimpleNamespace(
            ThreadPoolExecutor=_NoThread, TimeoutError=futures.TimeoutError
        )
    )
    statesampler.StateSampler.start = _start_unwatched
    statesampler.StateSampler.stop_if_still_running = _stop_unwatched
    bundle_processor.BundleProcessor.monitoring_infos = _own_metrics
    beam_options.make_beam_parser = functools.cache(beam_options.make_beam_parser)
    Vocabulary.to_parquet = functools.cache(Vocabulary.to_parquet)  # type: ignore[method-assign]  # on purpose


def _remembered_view_as(options: PipelineOptions, cls: type) -> PipelineOptions:
    # All views share one dictionary of values, so that an old one is as good as a new one.
    views = _views.setdefault(options, {})
    if cls not in views:
        views[cls] = _view_as(options, cls)
    return views[cls]


def _unless_for_warnings(
    options: PipelineOptions, *given: Any, display_warnings: bool = False, **named: Any
) -> dict[str, Any]:
    return {} if display_warnings else _all_options(options, *given, **named)


def _remembered_list(options: PipelineOptions) -> list[str]:
    # Their names, which stay; values are kept elsewhere.
    if options not in _visible:
        _visible[options] = _visible_option_list(options)
    return _visible[options]


def _remembered_conversion(native: Any) -> Any:
    try:
        if native not in _converted:
            _converted[native] = _convert(native)
    except TypeError:  # of what cannot be a key
        return _convert(native)
    return _converted[native]


def _remembered(ask: Callable[[Callable[..., Any]], Any]) -> Callable[[Callable[..., Any]], Any]:
    """What is asked of a function, asked once for each."""
    answers: weakref.WeakKeyDictionary[Callable[..., Any], dict[bool, Any]] = (
        weakref.WeakKeyDictionary()
    )

    def remembered(function: Callable[..., Any]) -> Any:
        # A bound method has an argument less than its function, and is made anew at each access.
        plain = getattr(function, '__func__', function)
        try:
            known = answers.setdefault(plain, {})
        except TypeError:  # what cannot be referred to weakly
            return ask(function)
        is_plain = function is plain
        if is_plain not in known:
            known[is_plain] = ask(function)
        return known[is_plain]

    return remembered


def _remembered_specs(function: core.DoFn) -> Any:
    # Those of a class, or of the method that it wraps; a function that it wraps is not looked at.
    process: Any = getattr(function, 'process', None)
    is_wrapped = isinstance(function, core.CallableWrapperDoFn)
    is_looked_at = is_wrapped and isinstance(process, types.MethodType)
    key = process.__func__ if is_looked_at else type(function)
    if key not in _states:
        _states[key] = _specs(function)
    return _states[key]


def _remembered_type(function: Any, given: list[Any], *more: Any) -> Any:
    # Made anew with each graph are functions of the same code, which may close over others.
    try:
        closed = tuple(cell.cell_contents for cell in function.__closure__ or ())
        key = function.__code__, closed, tuple(given), more
        if key not in _inferred:
            _inferred[key] = _infer(function, given, *more)
    except (TypeError, ValueError):  # of what cannot be a key, and of an empty cell
        return _infer(function, given, *more)
    return _inferred[key]


class _Unpickled:
    """What a stage gives its own steps, each of which is the only one to get it."""

    def __init__(self, value: Any):
        self.value = value


def _loads(given: bytes | _Unpickled) -> Any:
    return given.value if isinstance(given, _Unpickled) else pickler.loads(given)


class _NoThread(contextlib.nullcontext[Any]):
    """An executor that does at once, in the thread that asks, what it is given."""

    def __init__(self, **_: Any):
        super().__init__(self)

    def submit(self, function: Callable[..., Any], *given: Any) -> futures.Future[Any]:
        done: futures.Future[Any] = futures.Future()
        try:
            done.set_result(function(*given))
        except BaseException as e:  # noqa: BLE001 (raised again where the result is asked for)
            done.set_exception(e)
        return done


def _start_unwatched(sampler: statesampler.StateSampler) -> None:
    sampler.tracked_thread = threading.current_thread()
    statesampler.set_current_tracker(sampler)


def _stop_unwatched(_: statesampler.StateSampler) -> None:
    statesampler.set_current_tracker(None)


def _own_metrics(stage: bundle_processor.BundleProcessor) -> list[Any]:
    """Those of the steps; Beam's own are the time and the elements of each."""
    found: dict[Any, Any] = {}
    for name, operation in stage.ops.items():
        found |= operation.user_monitoring_infos(name)
    return [*found.values()]
