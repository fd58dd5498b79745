"""A standalone Flink on loopback: one JobManager and TaskManagers, each a process.

The Flink is the one that `make .venvs/flink/ready` sets up.  Everything of a cluster lies in one
folder, a log for each process.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_JARS = Path(__file__).parents[3] / '.venvs/flink/python/pyflink/lib'
_JOB_MANAGER = 'org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint'
_TASK_MANAGER = 'org.apache.flink.runtime.taskexecutor.TaskManagerRunner'
_START_SEC = 60.0
_MIB = 2**20
# Flink reads fields of Java's own classes, which Java 17 must be told to allow.
_OPENED = 'lang net io nio util lang.reflect text time util.concurrent util.concurrent.atomic'
_JAVA = [f'--add-opens=java.base/java.{name}=ALL-UNNAMED' for name in _OPENED.split()]
# Its sizes are given to the TaskManager itself, as the scripts of Flink do.
_TASK_MANAGER_MEMORY = {
    'taskmanager.cpu.cores': '1.0',
    'taskmanager.memory.task.heap.size': f'{256 * _MIB}b',
    'taskmanager.memory.task.off-heap.size': '0b',
    'taskmanager.memory.framework.heap.size': f'{128 * _MIB}b',
    'taskmanager.memory.framework.off-heap.size': f'{128 * _MIB}b',
    'taskmanager.memory.network.min': f'{64 * _MIB}b',
    'taskmanager.memory.network.max': f'{64 * _MIB}b',
    'taskmanager.memory.managed.size': f'{128 * _MIB}b',
    'taskmanager.memory.jvm-metaspace.size': f'{256 * _MIB}b',
    'taskmanager.memory.jvm-overhead.min': f'{128 * _MIB}b',
    'taskmanager.memory.jvm-overhead.max': f'{128 * _MIB}b',
}
_LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.out.ref = out
appender.out.name = out
appender.out.type = CONSOLE
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss,SSS} %p %c{1} %m%n
"""


class FlinkCluster:
    """Starts when entered, and is gone when left.

    Args:
      folder: for its configuration, logs and temporary files.
      task_managers: how many.
      slots: of each.  With as many as there are TaskManagers one that is left can take over a job
        that was spread over all.
      restarts: how often a job may be restarted.

    Attributes:
      address: 'localhost:port' of its REST interface, for --flink_master.
      task_managers: the processes.
    """

    def __init__(self, folder: Path, task_managers: int = 2, slots: int = 2, restarts: int = 5):
        self._folder = folder
        self._count = task_managers
        self._slots = slots
        self._restarts = restarts
        self._rest_port, self._rpc_port, self._blob_port = _free_ports(3)
        self._job_manager: subprocess.Popen | None = None
        self.address = f'localhost:{self._rest_port}'
        self.task_managers: list[subprocess.Popen] = []

    def __enter__(self) -> Self:
        if not _JARS.is_dir():
            raise FileNotFoundError(f'no Flink in {_JARS}; set it up with: make .venvs/flink/ready')
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def add_task_manager(self) -> subprocess.Popen:
        """Starts one more; `wait_for` waits until it is registered."""
        number = len(self.task_managers)
        config = self._configure(f'taskmanager-{number}')
        sizes = [f'-D{key}={value}' for key, value in _TASK_MANAGER_MEMORY.items()]
        heap = ['-Xmx384m', '-Xms384m', '-XX:MaxMetaspaceSize=256m', '-XX:MaxDirectMemorySize=192m']
        process = self._java(config, heap, _TASK_MANAGER, '--configDir', str(config), *sizes)
        self.task_managers.append(process)
        return process

    def wait_for(self, task_managers: int) -> None:
        """Waits until exactly so many TaskManagers are registered."""
        ends_at = time.monotonic() + _START_SEC
        found = None
        while found != task_managers:
            assert time.monotonic() < ends_at, f'{found} of {task_managers}; see {self._folder}'
            assert self._job_manager is not None
            assert self._job_manager.poll() is None, f'JobManager ended; see {self._folder}'
            with contextlib.suppress(OSError):
                found = self.get('/overview')['taskmanagers']
            time.sleep(0.1)

    def kill_task_manager(self, number: int = 0) -> None:
        """SIGKILL: the JobManager finds out by the broken connection, or the missing heartbeat."""
        self.task_managers[number].kill()
        self.task_managers[number].wait()

    def busy_task_managers(self) -> int:
        """How many of them work for a job."""
        found = self.get('/taskmanagers')['taskmanagers']
        return sum(each['freeSlots'] < each['slotsNumber'] for each in found)

    def run_job(self, source: Path, *arguments: str) -> subprocess.Popen:
        """Starts a Java program that sends a job, given host and port; its log is client/log."""
        host, _, port = self.address.partition(':')
        # Compiled in memory, for which `java` must be that of a JDK.
        words = [str(source), host, port, *arguments]
        return self._java(self._configure('client'), ['-Xmx256m'], *words)

    def get(self, path: str) -> Any:
        """An answer of the REST interface."""
        with _OPENER.open(f'http://{self.address}{path}', timeout=10) as answer:
            return json.load(answer)

    def failures_of(self, job: str) -> list[dict[str, Any]]:
        """What has failed of a job so far; after each, it was restarted or has ended."""
        return self.get(f'/jobs/{job}/exceptions')['exceptionHistory']['entries']

    def close(self) -> None:
        """Ends every process of it."""
        for process in [*self.task_managers, self._job_manager]:
            if process is not None:
                process.kill()
                process.wait()

    def _start(self) -> None:
        config = self._configure('jobmanager')
        heap = ['-Xmx384m', '-XX:MaxMetaspaceSize=256m']
        self._job_manager = self._java(config, heap, _JOB_MANAGER, '--configDir', str(config))
        for _ in range(self._count):
            self.add_task_manager()
        self.wait_for(self._count)

    def _configure(self, name: str) -> Path:
        config = self._folder / name
        temporary = config / 'tmp'
        temporary.mkdir(parents=True, exist_ok=True)
        options = {
            'jobmanager.rpc.address': 'localhost',
            'jobmanager.rpc.port': self._rpc_port,
            'jobmanager.bind-host': 'localhost',
            'jobmanager.memory.process.size': '1g',
            'taskmanager.bind-host': 'localhost',
            'taskmanager.host': 'localhost',
            'taskmanager.numberOfTaskSlots': self._slots,
            'taskmanager.load-balance.mode': 'SLOTS',
            'rest.address': 'localhost',
            'rest.bind-address': 'localhost',
            'rest.port': self._rest_port,
            'blob.server.port': self._blob_port,
            'io.tmp.dirs': temporary,
            'parallelism.default': self._count,
            # A job is restarted from its sources; what Lemmabeam has finished it finds again.
            'restart-strategy.type': 'fixed-delay',
            'restart-strategy.fixed-delay.attempts': self._restarts,
            'restart-strategy.fixed-delay.delay': '1 s',
            'jobmanager.execution.failover-strategy': 'region',
            'heartbeat.interval': 1000,
            'heartbeat.timeout': 8000,
        }
        lines = [f'{key}: {value}\n' for key, value in options.items()]
        (config / 'config.yaml').write_text(''.join(lines))
        (config / 'log4j.properties').write_text(_LOG4J)
        return config

    def _java(self, config: Path, flags: list[str], *words: str) -> subprocess.Popen:
        java = shutil.which('java')
        if java is None:
            raise FileNotFoundError('Flink needs Java 11 or 17: no java on PATH')
        log_config = f'-Dlog4j.configurationFile={config / "log4j.properties"}'
        environment = {k: v for k, v in os.environ.items() if k != 'JAVA_TOOL_OPTIONS'}
        with (config / 'log').open('ab') as log:
            return subprocess.Popen(
                [java, *flags, *_JAVA, log_config, '-classpath', f'{_JARS}/*', *words],
                cwd=config,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )


# Whatever proxy the environment names, loopback is asked directly.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(('127.0.0.1', 0))
        return [probe.getsockname()[1] for probe in probes]
