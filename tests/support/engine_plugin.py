"""Makes an SDK worker that Beam itself starts count as `tests.support.engine_worker` does.

Imported in every worker that is told so by Beam's option `beam_plugins`; never import it elsewhere.
"""

import os

from tests.support import counted, engine_worker

engine_worker.write_pid(os.environ[engine_worker.COUNT])
counted.install(os.environ[engine_worker.COUNT], os.environ[engine_worker.KIND])
