"""Sets up the processes of all tests: one thread for torch, and a cache folder that nothing outlives."""

import atexit
import os
import shutil
import tempfile

# Before torch is imported, and inherited by every command that a test starts. Small nets gain nothing from a second
# thread, and threads that wait for one another beside other processes take the suite several times as long.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="foldblend-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
