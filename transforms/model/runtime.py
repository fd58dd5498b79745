"""Starts TensorFlow: quietly, once, with the threads and on the device that were asked for."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from transforms.core.errors import ModelError

# A machine without an NVIDIA driver is no error.  A progress line may stand before each.
_CHATTER = re.compile(rb'(?:I\d{4} |WARNING: All log messages before absl|E\d{4} .*cuInit).*\n')

_REDIRECTING = threading.Lock()

_WITNESS = """
import os, re, sys
if not sys.stdin.buffer.read(1):
    held = int(sys.argv[1])
    said = os.pread(held, os.fstat(held).st_size, 0)
    sys.stdout.buffer.write(re.sub(sys.argv[2].encode(), b'', said))
"""


def import_tensorflow(intra_op_threads: int | None = None) -> Any:
    """The tensorflow module, with Keras on it.

    Args:
      intra_op_threads: threads within one operation; None leaves them as they are.

    Raises:
      ModelError: Keras uses another backend, or TensorFlow already runs with another number of
        threads.
    """
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    os.environ.setdefault('KERAS_BACKEND', 'tensorflow')
    backend = os.environ['KERAS_BACKEND']
    with _without_startup_messages():
        try:
            import tensorflow as tf
        except (ImportError, OSError) as e:
            raise ModelError(
                f'TensorFlow cannot be loaded: {e}. Is it installed completely, and is the '
                'memory limit (ulimit -v) high enough?'
            ) from e

        tf.config.list_physical_devices()
        try:
            import keras
        except (ImportError, ValueError) as e:  # of another backend that is not there
            raise ModelError(
                f'Keras cannot be imported with KERAS_BACKEND={backend!r}; set it to tensorflow'
            ) from e
    if keras.backend.backend() != 'tensorflow':
        raise ModelError(
            f'Keras uses the backend {keras.backend.backend()!r} here; set KERAS_BACKEND=tensorflow'
        )
    threads = tf.config.threading
    if intra_op_threads and threads.get_intra_op_parallelism_threads() != intra_op_threads:
        try:
            threads.set_intra_op_parallelism_threads(intra_op_threads)
        except RuntimeError as e:
            # Somebody else has begun to compute in this process; its own choice is one a core.
            running = threads.get_intra_op_parallelism_threads() or _core_count()
            if running != intra_op_threads:
                raise ModelError(
                    f'--intra_op_threads {intra_op_threads}: TensorFlow is already running in this '
                    f'process, with {running}; --intra_op_threads {running} takes those'
                ) from e
    return tf


def _core_count() -> int:
    """Cores that this process may use, as TensorFlow counts them: by its affinity."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return cores or 1


def device_name(tf: Any, require_gpu: bool) -> str:
    """The name of the first GPU, or 'CPU'.

    Raises:
      ModelError: there is none, and one was required.
    """
    gpus = tf.config.list_physical_devices('GPU')
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return str(details.get('device_name', 'GPU'))
    if require_gpu:
        build = 'was built for GPUs' if tf.test.is_built_with_cuda() else 'was built without CUDA'
        raise ModelError(
            f'--require_gpu: TensorFlow {tf.__version__} sees no GPU on this machine (it {build}); '
            "check the driver with nvidia-smi, and install 'lemmabeam[gpu]'"
        )
    return 'CPU'


@contextlib.contextmanager
def _without_startup_messages() -> Iterator[None]:
    """Holds back what TensorFlow's libraries print before their log level counts.

    Everything else that any thread writes to standard error meanwhile is passed on afterwards; if
    this process is killed meanwhile, another one does that.
    """
    try:
        descriptor = sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        yield
        return
    # One thread at a time, or another one would put back what is held here.
    with _REDIRECTING, tempfile.TemporaryFile() as held:
        saved = os.dup(descriptor)
        with _witness(held.fileno(), saved):
            sys.stderr.flush()
            os.dup2(held.fileno(), descriptor)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(saved, descriptor)
                os.close(saved)
                held.seek(0)
                os.write(descriptor, _CHATTER.sub(b'', held.read()))


@contextlib.contextmanager
def _witness(held: int, errors: int) -> Iterator[None]:
    """Where a library ends this process, another one passes on why.

    Args:
      held: descriptor of the file that has what was written.
      errors: of standard error.
    """
    command = [sys.executable, '-IS', '-c', _WITNESS, str(held), _CHATTER.pattern.decode()]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=errors,
            stderr=subprocess.DEVNULL,
            pass_fds=[held],
            start_new_session=True,  # a signal from the terminal is none of its business
        )
    except OSError:  # no process can be had
        yield
        return
    try:
        yield
    finally:
        process.communicate(b'.')
